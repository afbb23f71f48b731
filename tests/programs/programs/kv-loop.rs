//! Uses the bucket `default` many times: `get <times> <key> <size>` fails unless each value has that many bytes, all of
//! them `v`; `set <times> <key> <size>` writes such values.

use programs::{BrokerMessage, command};

programs::worker!(work);

fn work(message: &BrokerMessage) -> Result<(), String> {
    let words: Vec<&str> = programs::text(message)?.split(' ').collect();
    let [verb, times, key, size] = words.as_slice() else { return Err(format!("no such command: {words:?}")) };
    let number = |text: &str| text.parse::<usize>().map_err(|error| format!("`{text}`: {error}"));
    let (times, value) = (number(times)?, vec![b'v'; number(size)?]);
    let bucket = command::open(command::BUCKET)?;
    for _ in 0..times {
        if *verb == "set" {
            bucket.set(key, &value).map_err(|error| error.to_string())?;
        } else if bucket.get(key).map_err(|error| error.to_string())?.as_ref() != Some(&value) {
            return Err(format!("`{key}` has another value"));
        }
    }
    Ok(())
}
