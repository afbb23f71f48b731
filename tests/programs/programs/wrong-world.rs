//! A fine component that neither takes messages nor answers HTTP.

#[allow(unsafe_code, clippy::allow_attributes_without_reason, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package test:wrong-world@0.1.0;
            world wrong-world {
                export greet: func() -> string;
            }
        ",
    });

    export!(Program);

    struct Program;

    impl Guest for Program {
        fn greet() -> String {
            "hello".to_owned()
        }
    }
}
