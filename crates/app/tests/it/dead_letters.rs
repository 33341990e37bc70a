//! Dead letters: listed, shown, changed, put back and thrown away; on a server that runs and on
//! the folder of one that does not.

use crate::harness::{Folder, NUMBERS, Server, shown, until};

/// A folder and a server on which these numbers could not be converted.
fn with_dead(wrong: &[&str]) -> (Folder, Server) {
    let folder = Folder::new();
    folder.write("flows/numbers.yaml", NUMBERS);
    let server = Server::start(&folder, &[]);
    for (before, text) in wrong.iter().enumerate() {
        assert_eq!(server.post_json("/hook/numbers", &format!("{{\"x\": \"{text}\"}}")).status, 202);
        // One after the other: steps run in parallel, and the tests know them by their order.
        until("it is dead", || dead(&server) == before + 1);
    }
    (folder, server)
}

fn dead(server: &Server) -> usize {
    server.get("/api/v1/dead-letters").json()["dead_letters"].as_array().map_or(0, Vec::len)
}

#[test]
fn over_the_api() {
    let (_folder, server) = with_dead(&["one", "two", "three"]);
    let page = server.get("/api/v1/dead-letters?limit=2&flow=numbers&step=convert").json();
    assert_eq!(page["dead_letters"].as_array().map(Vec::len), Some(2));
    let next = page["next"].as_u64().unwrap();
    let rest = server.get(&format!("/api/v1/dead-letters?limit=2&after={next}")).json();
    assert_eq!((rest["dead_letters"].as_array().map(Vec::len), rest["next"].is_null()), (Some(1), true));
    let id = page["dead_letters"][0]["id"].as_u64().unwrap();
    let shown = server.get(&format!("/api/v1/dead-letters/{id}")).json();
    assert_eq!((shown["attempts"].as_u64(), shown["fault"]["code"].as_str()), (Some(1), Some("expression")));
    let replay = format!("{{\"which\": {{\"ids\": [{id}]}}, \"body\": {{\"x\": \"1\"}}, \"newest\": true}}");
    assert_eq!(server.post_json("/api/v1/dead-letters/replay", &replay).json()["replayed"], 1);
    let replay = "{\"which\": {\"flow\": \"numbers\"}, \"body\": 1}";
    assert_eq!(server.post_json("/api/v1/dead-letters/replay", replay).status, 400, "one body for many");
    let discard = server.post_json("/api/v1/dead-letters/discard", "{\"which\": {\"step\": \"convert\"}}");
    assert_eq!(discard.json()["discarded"], 2);
    assert_eq!(dead(&server), 0);
}

#[test]
fn by_the_commands_on_a_server() {
    let (folder, server) = with_dead(&["one", "two", "three"]);
    let ids: Vec<String> = folder
        .json(&["dead-letters", "--json"])
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| letter["id"].to_string())
        .collect();
    let listed = shown(&folder.run(&["dead-letters", "list", "--code", "expression", "--limit", "1"]));
    assert!(listed.contains("numbers/convert") && listed.contains("there may be more: --after"), "{listed}");
    let one = shown(&folder.run(&["dead-letters", "show", &ids[0]]));
    assert!(one.contains("Cannot convert 'one' to number (expression)") && one.contains("\"x\": \"one\""), "{one}");
    let same = folder.run_with_input(&["dead-letters", "edit", &ids[0], "--body", "-"], "{\"x\": \"one\"}");
    assert_eq!(same.status.code(), Some(1), "an unchanged body is not replayed by mistake");
    let edited = folder.run_with_input(&["dead-letters", "edit", &ids[0], "--body", "-"], "{\"x\": \"1\"}");
    assert!(edited.status.success(), "{}", shown(&edited));
    until("it is processed", || server.log().contains("number 1"));
    let mut editor = folder.command(&["dead-letters", "edit", &ids[1]]);
    editor.env("EDITOR", "sed -i s/two/2/");
    let edited = editor.output().unwrap();
    assert!(edited.status.success(), "{}", shown(&edited));
    until("it is processed", || server.log().contains("number 2"));
    let again = shown(&folder.run(&["dead-letters", "replay", &ids[2], "--newest"]));
    assert!(again.contains("1 dead letter replayed"), "{again}");
    until("it died again", || dead(&server) == 1);
    let unsure = folder.run(&["dead-letters", "discard", "--flow", "numbers"]);
    assert_eq!(unsure.status.code(), Some(2));
    assert!(shown(&unsure).contains("Throw away 1 dead letter?"), "{}", shown(&unsure));
    assert!(folder.run(&["dead-letters", "discard", "--all", "--yes"]).status.success());
    assert_eq!(dead(&server), 0);
    assert_eq!(folder.run(&["dead-letters", "replay", "--all"]).status.code(), Some(1), "there was none");
}

#[test]
fn by_the_commands_on_a_stopped_server() {
    let (folder, server) = with_dead(&["one", "two", "three"]);
    assert_eq!(server.stop().0, Some(0));
    let listed = folder.json(&["dead-letters", "--json"]);
    let ids: Vec<String> = listed.as_array().unwrap().iter().map(|letter| letter["id"].to_string()).collect();
    assert_eq!(ids.len(), 3);
    assert!(folder.run(&["dead-letters", "show", &ids[0]]).status.success());
    let edited = folder.run_with_input(&["dead-letters", "edit", &ids[0], "--body", "-"], "{\"x\": \"1\"}");
    assert!(edited.status.success(), "{}", shown(&edited));
    let discarded = shown(&folder.run(&["dead-letters", "discard", &ids[1], "--yes"]));
    assert!(discarded.contains("1 dead letter discarded"), "{discarded}");
    assert_eq!(folder.json(&["queues", "--json"])[0]["ready"].as_u64(), Some(1));
    let server = Server::start(&folder, &[]);
    until("the replayed one is processed", || server.log().contains("number 1"));
}

#[test]
#[ignore = "the event of a discarded dead letter carries no fault, so the recorder takes it for a waiting message"]
fn an_execution_whose_dead_letter_was_discarded_has_not_failed() {
    let (folder, server) = with_dead(&["one"]);
    assert_eq!(server.stop().0, Some(0));
    assert!(folder.run(&["dead-letters", "discard", "--all", "--yes"]).status.success());
    assert_eq!(folder.json(&["executions", "--status", "failed", "--json"]).as_array().map(Vec::len), Some(0));
}
