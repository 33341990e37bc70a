//! What the program prints, to the letter.

use insta::assert_snapshot;

use crate::harness::{Folder, NUMBERS, shown};

const BROKEN: &str = "\
name: Broken
steps:
  form:
    use: webhook.recieve
    wiht: {}
  customer:
    use: transform.map
    after: from
    with:
      map: { a: \"{{ $lowercase( }}\" }
  ask:
    use: http.request
    after: customer
    with: { url: 7 }
";

#[test]
fn check_shows_every_problem() {
    let folder = Folder::new();
    folder.write("flows/broken.yaml", BROKEN);
    folder.write("flows/numbers.yaml", NUMBERS);
    folder.write("flows/again.yaml", NUMBERS);
    folder.write("flows/not-yaml.yaml", "name: [");
    folder.write("flows/readme.txt", "not a flow");
    assert_snapshot!(shown(&folder.run(&["check", "flows"])));
}

#[test]
fn check_as_json() {
    let folder = Folder::new();
    folder.write("broken.yaml", "name: x\nsteps: 7\n");
    assert_snapshot!(shown(&folder.run(&["check", "--json", "broken.yaml"])));
}

#[test]
fn check_without_problems() {
    let folder = Folder::new();
    folder.write("numbers.yaml", NUMBERS);
    assert_snapshot!(shown(&folder.run(&["check", "numbers.yaml"])));
}

#[test]
fn check_of_what_is_not_there() {
    let folder = Folder::new();
    folder.write("empty/readme.txt", "");
    let runs = [&["check", "nowhere.yaml"], &["check", "empty"]].map(|arguments| shown(&folder.run(arguments)));
    assert_snapshot!(runs.join("\n"));
}

#[test]
fn mistyped_commands_and_flags() {
    let folder = Folder::new();
    let runs: [&[&str]; 5] = [
        &["chekc"],
        &["up", "--lisen", "127.0.0.1:1"],
        &["pause", "Not A Name"],
        &["executions", "--limit", "0"],
        &["up", "--token", "short"],
    ];
    assert_snapshot!(runs.map(|arguments| shown(&folder.run(arguments))).join("\n"));
}

#[test]
fn help() {
    let folder = Folder::new();
    assert_snapshot!(shown(&folder.run(&["--help"])));
    assert_snapshot!(shown(&folder.run(&["up", "--help"])));
}

#[test]
fn the_reference_of_an_operation() {
    let folder = Folder::new();
    assert_snapshot!(shown(&folder.run(&["components", "log.write"])));
    assert_snapshot!(shown(&folder.run(&["components", "http.reqest"])));
    let spec = folder.json(&["components", "timer.tick", "--json"]);
    assert_eq!((spec["name"].as_str(), spec["kind"].as_str()), (Some("timer.tick"), Some("polling")));
}

#[test]
fn components_are_listed() {
    let folder = Folder::new();
    let listed = shown(&folder.run(&["components"]));
    for operation in ["webhook.receive", "timer.tick", "http.request", "transform.map", "email.send"] {
        assert!(listed.contains(operation), "{listed}");
    }
}

#[test]
fn a_configuration_with_problems() {
    let folder = Folder::new();
    folder
        .write("flowline.yaml", "lisen: x\nlisten: here\nsecrets: { a: hush }\ngrace: 10x\nlog-level: loud\nvars: 7\n");
    let output = shown(&folder.run(&["config"]));
    assert!(!output.contains("hush"), "no secret is shown");
    assert_snapshot!(output);
    assert_snapshot!(shown(&folder.run(&["--config", "nowhere.yaml", "config"])));
}

#[test]
fn flag_before_environment_before_file_before_default() {
    let folder = Folder::new();
    let secrets = folder.write("secrets.yaml", "cms-token: hush-hush\n");
    private(&secrets, 0o600);
    folder.write(
        "flowline.yaml",
        "data: from-file\nlisten: 127.0.0.1:1\ngrace: 3s\nsecrets: secrets.yaml\nvars: { region: eu }\ntoken: hush-hush-hush-hush\n",
    );
    let mut command = folder.command(&["config", "--data", "from-flag"]);
    command
        .env("FLOWLINE_DATA", "from-env")
        .env("FLOWLINE_LISTEN", "127.0.0.1:2")
        .env("FLOWLINE_SECRET_FORM_KEY", "hush");
    let output = shown(&command.output().unwrap());
    assert!(!output.contains("hush"), "no secret is ever shown");
    assert_snapshot!(output);
}

#[test]
fn secrets_that_others_can_read_are_refused() {
    let folder = Folder::new();
    let secrets = folder.write("secrets.yaml", "a: hush\n");
    private(&secrets, 0o644);
    assert_snapshot!(shown(&folder.run(&["config", "--secrets", "secrets.yaml"])));
    folder.write("secrets.yaml", "hush: [hush]\n");
    private(&secrets, 0o600);
    assert_snapshot!(shown(&folder.run(&["config", "--secrets", "secrets.yaml"])));
}

#[test]
fn the_doctor_finds_a_store_whole() {
    let folder = Folder::new();
    folder.write("numbers.yaml", NUMBERS);
    folder.write("in.json", "[{\"x\": \"one\"}]");
    folder.run(&["run", "numbers.yaml", "--input", "in.json", "--data", "data"]);
    assert_eq!(folder.run(&["doctor"]).status.code(), Some(0));
    let report = folder.json(&["doctor", "--json", "--repair"]);
    assert_eq!((report["problems"].as_array().map(Vec::len), report["queues"][0]["dead"].as_u64()), (Some(0), Some(1)));
    assert_snapshot!(shown(&folder.run(&["doctor", "--data", "nowhere"])));
}

fn private(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn verbs_without_a_server_or_data() {
    let folder = Folder::new();
    let runs: [&[&str]; 5] = [
        &["flows"],
        &["queues"],
        &["executions", "--server", "127.0.0.1:1"],
        &["queues", "--server", "ftp://x"],
        &["dead-letters", "replay"],
    ];
    assert_snapshot!(runs.map(|arguments| shown(&folder.run(arguments))).join("\n"));
}

#[test]
fn completions_for_every_shell() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = folder.run(&["completions", shell]);
        assert!(output.status.success() && output.stdout.len() > 1_000, "{shell}");
    }
}
