//! `flowline run`: one flow in the foreground.

use std::fmt::Write as _;

use crate::harness::{Folder, NUMBERS, shown};

#[test]
fn inputs_are_taken_from_a_file_and_all_is_done() {
    let folder = Folder::new();
    folder.write("numbers.yaml", NUMBERS);
    let lines = (0..2_000).fold(String::new(), |mut text, n| {
        writeln!(text, "{{\"x\": \"{n}\"}}").unwrap();
        text
    });
    folder.write("in.jsonl", &lines);
    let output = folder.run(&["run", "numbers.yaml", "--input", "in.jsonl", "--log-level", "error"]);
    let shown = shown(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("numbers: 2000 inputs, 0 dead letters"), "{shown}");
    assert!(!folder.path().join("data").exists(), "the data folder was a temporary one");
}

#[test]
fn dead_letters_are_listed_with_their_cause() {
    let folder = Folder::new();
    folder.write("numbers.yaml", NUMBERS);
    let input = "{\"x\": \"1\"} {\"x\": \"one\"} {\"x\": \"3\"}";
    let arguments = ["run", "numbers.yaml", "--input", "-", "--log-level", "error"];
    let output = folder.run_with_input(&arguments, input);
    let text = shown(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("numbers/convert") && text.contains("Cannot convert 'one'"), "{text}");
    assert!(text.contains("3 inputs, 1 dead letter,"), "{text}");
}

#[test]
fn a_summary_as_json_and_a_data_folder_that_stays() {
    let folder = Folder::new();
    folder.write("numbers.yaml", NUMBERS);
    folder.write("in.json", "[{\"x\": \"1\"}, {\"x\": \"one\"}]");
    let arguments = ["run", "numbers.yaml", "-i", "in.json", "--data", "kept", "--json"];
    let first = folder.json(&arguments);
    assert_eq!((first["inputs"].as_u64(), first["dead_letters"].as_u64()), (Some(2), Some(1)));
    let second = folder.json(&arguments);
    assert_eq!(second["dead_letters"].as_u64(), Some(1), "only what died in this run");
    let executions = folder.json(&["executions", "--data", "kept", "--json"]);
    assert_eq!(executions.as_array().unwrap().len(), 4);
}

#[test]
fn a_polling_trigger_polls_once() {
    let folder = Folder::new();
    folder.write(
        "beat.yaml",
        "name: beat\nsteps:\n  tick:\n    use: timer.tick\n    schedule: { every: 1s }\n  say:\n    use: log.write\n    after: tick\n    with: { text: beat }\n",
    );
    let output = folder.run(&["run", "beat.yaml"]);
    let text = shown(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(text.matches("INFO beat").count(), 1, "{text}");
    assert!(text.contains("beat: 1 execution, 0 dead letters"), "{text}");
}

#[test]
fn what_cannot_be_run_is_said() {
    let folder = Folder::new();
    folder.write("numbers.yaml", NUMBERS);
    folder.write("broken.yaml", "name: broken\nsteps: {}\n");
    folder.write("bad.jsonl", "{\"x\": \"1\"}\n{\"x\":\n");
    let runs: [&[&str]; 4] = [
        &["run", "numbers.yaml"],
        &["run", "broken.yaml"],
        &["run", "numbers.yaml", "--input", "nowhere.jsonl"],
        &["run", "nowhere.yaml"],
    ];
    insta::assert_snapshot!(runs.map(|arguments| shown(&folder.run(arguments))).join("\n"));
    let output = folder.run(&["run", "numbers.yaml", "-i", "bad.jsonl", "--log-level", "error"]);
    let text = shown(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("1 input, 0 dead letters") && text.contains("not JSON after 1 value"), "{text}");
}
