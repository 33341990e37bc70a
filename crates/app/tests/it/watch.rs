//! The flow documents on the disk are what runs.

use std::fs;

use crate::harness::{Folder, NUMBERS, Server, until};

fn version(server: &Server, flow: &str) -> Option<u64> {
    server.get(&format!("/api/v1/flows/{flow}")).json()["version"].as_u64()
}

fn active(server: &Server, flow: &str) -> Option<bool> {
    server.get(&format!("/api/v1/flows/{flow}")).json()["active"].as_bool()
}

#[test]
fn changes_apply_and_broken_ones_do_not() {
    let folder = Folder::new();
    folder.write("flows/numbers.yaml", NUMBERS);
    let server = Server::start(&folder, &[]);
    assert_eq!(version(&server, "numbers"), Some(1));
    folder.write("flows/numbers.yaml", &NUMBERS.replace("number {{", "the number {{"));
    until("the change runs", || version(&server, "numbers") == Some(2));
    folder.write("flows/numbers.yaml", &NUMBERS.replace("webhook.receive", "webhook.recieve"));
    until("the problem is drawn", || server.log().contains("did you mean `webhook.receive`?"));
    assert_eq!(version(&server, "numbers"), Some(2));
    assert_eq!(server.post_json("/hook/numbers", "{\"x\": \"1\"}").status, 202, "the version before goes on");
    folder.write("flows/second.yaml", &NUMBERS.replace("name: numbers", "name: second"));
    until("the new flow runs", || server.post_json("/hook/second", "{\"x\": \"1\"}").status == 202);
    fs::remove_file(folder.path().join("flows/second.yaml")).unwrap();
    until("the flow is retired", || active(&server, "second") == Some(false));
    assert_eq!(server.post_json("/hook/second", "{}").status, 404);
    assert_eq!(active(&server, "numbers"), Some(true));
}

#[test]
fn a_flow_stands_in_one_file_and_may_move_to_another() {
    let folder = Folder::new();
    folder.write("flows/a.yaml", NUMBERS);
    folder.write("flows/b.yaml", &NUMBERS.replace("number {{", "n {{"));
    let server = Server::start(&folder, &[]);
    until("the second file is refused", || server.log().contains("stands in flows/a.yaml already"));
    assert_eq!(version(&server, "numbers"), Some(1));
    fs::remove_file(folder.path().join("flows/a.yaml")).unwrap();
    until("the second file runs", || version(&server, "numbers") == Some(2));
    assert_eq!(active(&server, "numbers"), Some(true));
}

#[test]
fn documents_that_went_while_the_server_was_stopped_are_retired() {
    let folder = Folder::new();
    folder.write("flows/numbers.yaml", NUMBERS);
    folder.write("flows/second.yaml", &NUMBERS.replace("name: numbers", "name: second"));
    let (code, _) = Server::start(&folder, &[]).stop();
    assert_eq!(code, Some(0));
    fs::remove_file(folder.path().join("flows/second.yaml")).unwrap();
    let server = Server::start(&folder, &[]);
    assert_eq!((active(&server, "numbers"), active(&server, "second")), (Some(true), Some(false)));
}

#[test]
fn a_server_starts_with_the_flows_that_check() {
    let folder = Folder::new();
    folder.write("flows/broken.yaml", "name: broken\nsteps: {}\n");
    let output = folder.run(&["up", "flows", "--listen", "127.0.0.1:0"]);
    let text = crate::harness::shown(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("none of the flows can run") && text.contains("error["), "{text}");
    folder.write("flows/numbers.yaml", NUMBERS);
    let server = Server::start(&folder, &[]);
    assert_eq!(version(&server, "numbers"), Some(1));
    assert!(server.log().contains("1 flow document not applied"), "{}", server.log());
}
