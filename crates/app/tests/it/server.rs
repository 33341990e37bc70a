//! The server's answers: webhooks, the API and its guard, starts and stops.

use std::time::Duration;

use crate::harness::{Folder, NUMBERS, Server, shown, until};

const STRICT: &str = "\
name: strict
steps:
  form:
    use: webhook.receive
    with:
      verify: { api_key: { value: \"{{ $secret.key }}\" } }
      accept: [application/json]
      body_limit: 1KiB
  say:
    use: log.write
    after: form
";

fn strict(folder: &Folder) -> Server {
    folder.write("flows/strict.yaml", STRICT);
    let mut command = folder.command(&["up", "flows", "--listen", "127.0.0.1:0"]);
    command.env("FLOWLINE_SECRET_KEY", "open-sesame");
    Server::spawn(folder, command)
}

#[test]
fn webhooks_accept_and_refuse() {
    let folder = Folder::new();
    let server = strict(&folder);
    let ask = |key: &str, kind: &str, body: &str| {
        server.request("POST", "/hook/strict", &[("x-api-key", key), ("content-type", kind)], body)
    };
    let json = "application/json";
    let accepted = ask("open-sesame", json, "{\"a\": 1}");
    assert_eq!(accepted.status, 202);
    assert_eq!(accepted.json()["message"].as_str().map(str::len), Some(36));
    assert_eq!(ask("wrong", json, "{}").status, 401);
    assert_eq!(ask("open-sesame", json, "{oops").status, 400);
    assert_eq!(ask("open-sesame", "text/csv", "a,b").status, 415);
    assert_eq!(ask("open-sesame", json, &format!("\"{}\"", "x".repeat(2_000))).status, 413);
    assert_eq!(server.post_json("/hook/nowhere", "{}").status, 404);
    let put = server.request("PUT", "/hook/strict", &[], "");
    assert_eq!(put.status, 405);
    assert!(put.head.contains("\r\nallow: post"), "{}", put.head);
    assert_eq!(server.post_json("/api/v1/flows/strict/drain", "").status, 200);
    let draining = ask("open-sesame", json, "{}");
    assert_eq!(draining.status, 503);
    assert!(draining.head.contains("retry-after:"), "{}", draining.head);
    assert!(!server.log().contains("open-sesame"), "no secret is logged");
}

#[test]
fn a_webhook_comes_in_by_any_name_of_the_machine() {
    let folder = Folder::new();
    folder.write("flows/numbers.yaml", NUMBERS);
    let server = Server::start(&folder, &[]);
    let headers =
        [("host", "hooks.example.com"), ("content-type", "application/json"), ("origin", "https://x.example")];
    assert_eq!(server.request("POST", "/hook/numbers", &headers, "{\"x\": \"1\"}").status, 202);
}

#[test]
fn the_api_is_out_of_reach_of_foreign_pages() {
    let folder = Folder::new();
    folder.write("flows/numbers.yaml", NUMBERS);
    let server = Server::start(&folder, &[]);
    let own = server.address.clone();
    let status = |method, path, headers: &[(&str, &str)]| server.request(method, path, headers, "").status;
    assert_eq!(status("GET", "/api/v1/flows", &[("host", "evil.example")]), 403);
    assert_eq!(status("GET", "/metrics", &[("host", "evil.example")]), 403);
    let pause = "/api/v1/flows/numbers/pause";
    assert_eq!(status("POST", pause, &[("origin", "https://evil.example")]), 403);
    assert_eq!(status("POST", pause, &[("origin", "null")]), 403);
    assert_eq!(status("POST", pause, &[("origin", &format!("http://{own}"))]), 200);
    assert_eq!(status("GET", "/healthz", &[("host", "probe")]), 200);
}

#[test]
fn with_a_token_the_api_wants_it_and_webhooks_do_not() {
    let folder = Folder::new();
    folder.write("flows/numbers.yaml", NUMBERS);
    let mut command = folder.command(&["up", "flows", "--listen", "0.0.0.0:0"]);
    command.env("FLOWLINE_TOKEN", "a-token-of-sixteen-and-more");
    let server = Server::spawn(&folder, command);
    assert_eq!(server.get("/api/v1/flows").status, 401);
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get("/healthz").status, 200);
    let bearer = [("authorization", "Bearer a-token-of-sixteen-and-more"), ("host", "flowline.example")];
    assert_eq!(server.request("GET", "/api/v1/flows", &bearer, "").status, 200);
    assert_eq!(server.post_json("/hook/numbers", "{\"x\": \"1\"}").status, 202);
    let refused = shown(&folder.run(&["flows"]));
    assert!(refused.contains("wants another token"), "{refused}");
    let mut command = folder.command(&["flows"]);
    command.env("FLOWLINE_TOKEN", "a-token-of-sixteen-and-more");
    assert!(shown(&command.output().unwrap()).contains("/hook/numbers"));
}

#[test]
fn the_api_says_what_does_not_fit() {
    let folder = Folder::new();
    folder.write("flows/numbers.yaml", NUMBERS);
    let server = Server::start(&folder, &[]);
    for (path, status) in [
        ("/api/v1/nowhere", 404),
        ("/api/v1/flows/nowhere", 404),
        ("/api/v1/flows/Not%20A%20Name", 400),
        ("/api/v1/executions?limit=0", 400),
        ("/api/v1/executions?limit=1001", 400),
        ("/api/v1/executions?limt=5", 400),
        ("/api/v1/executions/nonsense", 400),
        ("/api/v1/executions/01a20aec-485c-7902-8199-2e361ca2974c", 404),
        ("/api/v1/dead-letters/7", 404),
        ("/api/v1/check", 405),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.head.contains("content-type: application/problem+json"), "{path}: {}", answer.head);
        let problem = answer.json();
        let named = ["type", "title", "status", "code", "detail"].iter().all(|name| !problem[name].is_null());
        assert!(named, "{path}: {problem}");
    }
    assert_eq!(
        server.post_json("/api/v1/dead-letters/discard", "{\"which\": {}}").status,
        400,
        "nothing is not everything"
    );
    assert_eq!(
        server.post_json("/api/v1/dead-letters/replay", "{\"which\": {\"ids\": [1], \"flw\": \"x\"}}").status,
        400
    );
    assert_eq!(server.request("POST", "/api/v1/check", &[("content-type", "text/plain")], "{}").status, 415);
    assert_eq!(server.post_json("/api/v1/check", &" ".repeat(17 << 20)).status, 413);
    assert_eq!(server.post_json("/api/v1/flows/numbers/run", "").status, 409, "a webhook cannot be run");
    assert_eq!(server.post_json("/api/v1/flows/numbers/pause?step=nowhere", "").status, 404);
    let checked = server.post_json("/api/v1/check", "{\"document\": \"name: x\"}").json();
    assert_eq!(checked["problems"][0]["code"], "missing-field");
}

#[test]
fn what_happened_is_shown() {
    let folder = Folder::new();
    folder.write("flows/numbers.yaml", NUMBERS);
    let server = Server::start(&folder, &[]);
    assert_eq!(server.post_json("/hook/numbers", "{\"x\": \"5\"}").status, 202);
    let done = || server.get("/api/v1/executions?status=done").json()["executions"].as_array().map_or(0, Vec::len) == 1;
    until("the execution is done", done);
    let listed = folder.json(&["executions", "--json"]);
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    let detail = folder.json(&["executions", "show", &id, "--json"]);
    assert_eq!(detail["steps"][0]["input"]["x"], "5");
    assert_eq!(detail["steps"][1]["input"]["n"], 5);
    assert_eq!(detail["steps"][1]["attempts"][0]["kind"], "done");
    let text = shown(&folder.run(&["executions", "show", &id]));
    assert!(text.contains("say") && text.contains("{\"n\":5}") && text.contains("attempt 1"), "{text}");
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("flowline_step_messages_in_total{flow=\"numbers\",step=\"say\"} 1"), "{metrics}");
    assert_eq!(server.get("/api/v1/components").json()["components"][0]["name"], "webhook");
    assert_eq!(server.get("/api/v1/queues").json()["queues"][0]["queue"], "numbers/convert");
}

#[test]
fn flows_are_paused_and_what_waits_is_discarded() {
    let folder = Folder::new();
    folder.write("flows/numbers.yaml", NUMBERS);
    let server = Server::start(&folder, &[]);
    assert!(folder.run(&["pause", "numbers/convert"]).status.success());
    for _ in 0..3 {
        assert_eq!(server.post_json("/hook/numbers", "{\"x\": \"5\"}").status, 202);
    }
    let waiting = || folder.json(&["queues", "--json"])[0]["ready"].as_u64();
    assert_eq!(waiting(), Some(3));
    let asked = folder.run(&["discard", "numbers"]);
    assert_eq!(asked.status.code(), Some(2), "without a terminal it does not discard");
    assert!(shown(&asked).contains("Throw away 3 messages that wait for numbers?"), "{}", shown(&asked));
    let discarded = shown(&folder.run(&["discard", "numbers/convert", "--yes"]));
    assert!(discarded.contains("3 messages of numbers/convert thrown away"), "{discarded}");
    assert_eq!(waiting(), Some(0));
    assert!(folder.run(&["resume", "numbers/convert"]).status.success());
    let flows = folder.json(&["flows", "--json"]);
    assert_eq!(flows[0]["steps"][1]["state"], "running");
}

#[test]
fn a_port_or_a_folder_that_is_taken() {
    let folder = Folder::new();
    folder.write("flows/numbers.yaml", NUMBERS);
    let server = Server::start(&folder, &[]);
    let port = folder.run(&["up", "flows", "--listen", &server.address, "--data", "other"]);
    assert_eq!(port.status.code(), Some(1));
    let address = &server.address;
    assert!(
        shown(&port).contains(&format!("error: {address} is in use by another program\nhint: ")),
        "{}",
        shown(&port)
    );
    let data = folder.run(&["up", "flows", "--listen", "127.0.0.1:0"]);
    assert_eq!(data.status.code(), Some(1));
    assert!(shown(&data).contains("is in use by process"), "{}", shown(&data));
    assert_eq!(server.get("/readyz").status, 200, "the first goes on");
}

#[test]
fn addresses_that_others_reach_need_a_token() {
    let folder = Folder::new();
    let output = folder.run(&["up", "--listen", "0.0.0.0:0"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(shown(&output).contains("there is no token"), "{}", shown(&output));
}

#[test]
fn a_stop_is_orderly_and_loses_nothing() {
    let folder = Folder::new();
    folder.write("flows/numbers.yaml", NUMBERS);
    let server = Server::start(&folder, &[]);
    for n in 0..50 {
        assert_eq!(server.post_json("/hook/numbers", &format!("{{\"x\": \"{n}\"}}")).status, 202);
    }
    let (code, took) = server.stop();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(12), "{took:?}");
    assert!(!folder.path().join("data/server.json").exists());
    let executions = folder.json(&["executions", "--json"]);
    assert_eq!(executions.as_array().unwrap().len(), 50);
}

#[test]
fn an_address_left_behind_by_a_killed_server_misleads_nobody() {
    let folder = Folder::new();
    folder.write("flows/numbers.yaml", NUMBERS);
    let server = Server::start(&folder, &[]);
    server.signal("-KILL");
    drop(server);
    assert!(folder.path().join("data/server.json").exists());
    assert_eq!(folder.json(&["queues", "--json"]).as_array().map(Vec::len), Some(3));
}

#[test]
fn a_second_interrupt_stops_at_once() {
    let folder = Folder::new();
    folder.write(
        "flows/slow.yaml",
        "name: slow\nsteps:\n  form:\n    use: webhook.receive\n    with: { wait_for_reply: 1m }\n  say:\n    use: log.write\n    after: form\n",
    );
    let server = Server::start(&folder, &["--grace", "60s"]);
    let mut waiting = server.connect();
    let head = format!("POST /hook/slow HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n\r\n", server.address);
    std::io::Write::write_all(&mut waiting, head.as_bytes()).unwrap();
    until("the request is taken", || {
        !server.get("/api/v1/executions").json()["executions"].as_array().unwrap().is_empty()
    });
    server.signal("-INT");
    until("it is stopping", || server.log().contains("once more stops at once"));
    let (code, took) = server.stop();
    assert_eq!(code, Some(130));
    assert!(took < Duration::from_secs(5), "{took:?}");
}
