//! What a host connects to where policies restrict the network.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn internal_only_means_internal_servers_only() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let (_host, report) = world.joined_with("NEDGE01", &["--trust-policies", issuer.key.as_str()]).await;
    let url = world.url.clone();
    for (id, server) in [("inside", url.as_str()), ("outside", "nats://8.8.8.8:4222")] {
        world.actor(id, "echo", &report.id, 1).await;
        let values = [("subscription", &*format!("site.{id}")), ("cluster-uri", server)];
        world.link(id, ProviderKind::MessagingNats, &values).await;
    }
    world.commit().await;
    world.until_state("outside", "running").await;
    assert_eq!(world.request("site.inside", "hello").await, "hello");
    issuer.put(&world, 1, &[], |bundle| bundle.policy.network_restrictions = vec!["internal-only".to_owned()]).await;
    let state = world.until_state("outside", "failed").await.components[&actor("outside")].state.to_string();
    assert!(state.contains("policy edge v1 restricts the network to internal addresses, and 8.8.8.8 is none"), "{state}");
    world.until_state("inside", "running").await;
    assert_eq!(world.request("site.inside", "hello").await, "hello");
    issuer.put(&world, 2, &[], |_| {}).await;
    world.until_state("outside", "running").await;
}

/// A server that answers every request with `ok`; returns its port.
async fn ok_server() -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
            // Whoever hangs up is not answered.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_actors_go_where_links_and_policies_let_them() {
    let mut world = World::start().await;
    let issuer = Issuer::new();
    let (_host, report) = world.joined_with("NEDGE01", &["--trust-policies", issuer.key.as_str()]).await;
    let port = ok_server().await;
    let (inside, outside) = (format!("GET http://127.0.0.1:{port}/"), format!("GET http://192.0.2.1:{port}/"));
    world.wants("user", program("http-user"), &report.id).await;
    world.commit().await;
    world.until_state("user", "waiting: no link for wasi:http/outgoing-handler").await;

    world.link("user", ProviderKind::HttpClient, &[("allow-host", &format!("127.0.0.1:{port}"))]).await;
    world.running("NEDGE01", "user").await;
    assert_eq!(world.request("site.user", &inside).await, "200 ok");
    let denied = async |world: &World, line: &str| {
        let (_, answer) = world.call("user", line).await;
        assert!(answer.contains("HttpRequestDenied"), "{line}: {answer}");
    };
    denied(&world, &outside).await;

    // Every host may be asked for, and policy leaves those inside.
    issuer.put(&world, 1, &[], |bundle| bundle.policy.network_restrictions = vec!["internal-only".to_owned()]).await;
    world.enforced(1).await;
    world.link("user", ProviderKind::HttpClient, &[("allow-host", "*:*"), ("force", "true")]).await;
    world.running("NEDGE01", "user").await;
    assert_eq!(world.request("site.user", &inside).await, "200 ok");
    denied(&world, &outside).await;

    issuer.put(&world, 2, &["wasmcloud:httpclient"], |_| {}).await;
    let state = world.until_state("user", "failed").await.components[&actor("user")].state.to_string();
    assert!(state.starts_with("failed: capability denied: wasmcloud:httpclient: policy edge v2 denies it"), "{state}");
    issuer.put(&world, 3, &[], |_| {}).await;
    world.until_state("user", "running").await;
    assert_eq!(world.request("site.user", &inside).await, "200 ok");

    world.unlink("user", Contract::HttpClient);
    world.commit().await;
    world.until_state("user", "waiting: no link for wasi:http/outgoing-handler").await;
}
