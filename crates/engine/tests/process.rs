//! Steps in child processes: real programs in Python and shell, well-behaved and otherwise.

mod support;

use std::time::Duration;

use flowline_engine::{DockerSettings, Settings, StepStatus};
use flowline_sdk::{
    model::{FlowName, QueueName, StepId},
    prelude::*,
};
use support::{Bench, numbers};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema counts")]
struct Program {
    command: Vec<String>,
    #[serde(default)]
    env: std::collections::BTreeMap<String, String>,
    memory: Option<Size>,
    input: Option<Value>,
}

async fn bench() -> Bench {
    let more = vec![
        Operation::process::<Program>(OperationSpec::action("process.run", "Run", "Runs a program.")),
        Operation::process::<Program>(OperationSpec::polling("process.poll", "Poll", "Polls with a program.")),
    ];
    let change = |settings: Settings| Settings {
        docker: DockerSettings {
            grace: Duration::from_secs(2),
            fewer_after: Duration::from_secs(1),
            none_after: Duration::from_secs(1),
            ..DockerSettings::default()
        },
        ..settings
    };
    Bench::with(tempfile::tempdir().unwrap(), Default::default(), Default::default(), more, change).await
}

/// A flow that gives numbers to a program and what it emits to the target.
fn flow(step: &str, program: &str) -> String {
    let command = serde_json::to_string(program).unwrap();
    let lines = |text: &str, indent: &str| text.lines().map(|line| format!("{indent}{line}\n")).collect::<String>();
    format!(
        "name: test\nsteps:\n  in: {{ use: test.count, schedule: {{ cron: \"0 0 29 2 *\" }}, with: {{ items: 1, chunk: 1 }} }}\n  \
         run:\n    use: process.run\n    after: in\n{}    with:\n      command: [{command}]\n  \
         target: {{ use: test.target, after: run }}\n",
        lines(step, "    ")
    )
    .replace(&format!("[{command}]"), &format!("[python3, -u, -c, {command}]"))
}

/// Whether a program runs that has this word in its command line, other than as part of another.
fn is_running(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let mut lines = processes.filter_map(|process| std::fs::read(process.join("cmdline")).ok());
    lines.any(|line| line.split(|byte| *byte == 0).any(|found| found == word.as_bytes()))
}

const DOUBLE: &str = "
import sys, json
for line in sys.stdin:
    ask = json.loads(line)
    print('working', file=sys.stderr)
    print(json.dumps({'log': 'a line'}))
    print(json.dumps({'emit': {'body': {'number': ask['body']['number'] * 2}}}))
    print(json.dumps({'done': True}))
";

fn step_status(bench: &Bench, flow: &FlowName, step: &str) -> StepStatus {
    let flows = bench.engine.flows();
    let status = flows.iter().find(|status| status.name == *flow).unwrap();
    status.steps.iter().find(|status| status.id.as_str() == step).unwrap().clone()
}

async fn dead(bench: &Bench) -> Vec<(String, String)> {
    let letters = bench.engine.records().dead_letters(&Default::default(), 100).await.unwrap();
    letters.into_iter().map(|letter| (letter.fault.code, letter.fault.message)).collect()
}

async fn until_dead(bench: &Bench, count: usize) -> Vec<(String, String)> {
    for _ in 0..6_000 {
        let found = dead(bench).await;
        if found.len() >= count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no dead letters; {:#?}", bench.engine.flows());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_works_on_messages_with_several_workers() {
    let bench = bench().await;
    let name = bench.apply(&flow("workers: 3", DOUBLE)).await;
    publish(&bench, &name, 200).await;
    bench.until_seen(200).await;
    let mut doubled: Vec<i64> = bench.bodies().iter().map(|body| body["number"].as_i64().unwrap()).collect();
    doubled.sort_unstable();
    assert_eq!(doubled, (0..200).map(|number| number * 2).collect::<Vec<_>>());
    let workers = step_status(&bench, &name, "run").workers.unwrap();
    assert_eq!((workers.running, workers.wanted, workers.trouble), (3, 3, None));
    bench.engine.shutdown().await;
}

async fn publish(bench: &Bench, flow: &FlowName, count: u64) {
    bench.engine.publish(flow, numbers(count)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_crashes_is_started_again_and_the_message_repeated() {
    let bench = bench().await;
    let program = "
import sys, json, os
for line in sys.stdin:
    ask = json.loads(line)
    if ask['attempt'] == 1 and ask['body']['number'] % 10 == 3:
        os._exit(7)
    print(json.dumps({'emit': {'body': ask['body']}}))
    print(json.dumps({'done': True}))
";
    let name = bench.apply(&flow("retry: { first: 10ms }", program)).await;
    publish(&bench, &name, 20).await;
    bench.until_seen(20).await;
    bench.until_idle().await;
    assert_eq!(bench.bodies().len(), 20);
    let trouble = step_status(&bench, &name, "run").workers.unwrap().trouble.unwrap();
    assert!(trouble.message.contains("exit code 7"), "{trouble:?}");
    assert!(dead(&bench).await.is_empty());
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_kills_its_worker_again_and_again_is_set_aside_and_the_rest_flows_on() {
    let bench = bench().await;
    let program = "
import sys, json, os
print(json.dumps({'ready': True}))
for line in sys.stdin:
    ask = json.loads(line)
    if ask['body']['number'] == 1:
        os._exit(1)
    print(json.dumps({'emit': {'body': ask['body']}}))
    print(json.dumps({'done': True}))
";
    let name = bench.apply(&flow("retry: { first: 10ms, factor: 1 }", program)).await;
    publish(&bench, &name, 3).await;
    let found = until_dead(&bench, 1).await;
    bench.until_seen(2).await;
    assert_eq!(found[0].0, "deadly");
    assert!(found[0].1.contains("10 times in a row"), "{}", found[0].1);
    let queue = QueueName::new(name, StepId::new("run").unwrap());
    let depths = bench.engine.records().queues().await.unwrap();
    let depth = depths.iter().find(|depth| depth.queue == queue).unwrap();
    assert_eq!((depth.ready, depth.leased, depth.delayed), (0, 0, 0));
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_hangs_is_killed_with_all_it_started() {
    let bench = bench().await;
    let mark = format!("{}", 86_400 + u64::from(std::process::id()));
    let program = format!(
        "
import sys, json, subprocess
for line in sys.stdin:
    ask = json.loads(line)
    if ask['attempt'] == 1:
        subprocess.run(['sleep', '{mark}'])
    print(json.dumps({{'emit': {{'body': ask['body']}}}}))
    print(json.dumps({{'done': True}}))
"
    );
    let name = bench.apply(&flow("timeout: 1s\nretry: { first: 10ms }", &program)).await;
    publish(&bench, &name, 1).await;
    bench.until_seen(1).await;
    bench.until(|| !is_running(&mark), "the end of what it started").await;
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_huge_lines_and_faults_are_told_apart() {
    let bench = bench().await;
    let program = "
import sys, json, time
for line in sys.stdin:
    number = json.loads(line)['body']['number']
    if number == 0: print('Hello, world!')
    if number == 1: print('x' * (11 << 20))
    if number == 2: print(json.dumps({'fault': {'kind': 'reject', 'code': 'no_price', 'message': 'no price'}}))
    if number == 3:
        while True: print(json.dumps({'emit': {'body': 1}}))
    if number >= 4:
        print(json.dumps({'emit': {'body': {'number': number}}}))
        print(json.dumps({'done': True}))
";
    let name = bench.apply(&flow("", program)).await;
    publish(&bench, &name, 6).await;
    bench.until_seen(2).await;
    let mut codes: Vec<String> = until_dead(&bench, 4).await.into_iter().map(|letter| letter.0).collect();
    codes.sort();
    assert_eq!(codes, ["no_price", "program_protocol", "program_protocol", "too_many_emits"]);
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_start_is_told_and_loses_nothing() {
    let bench = bench().await;
    let text = flow("", DOUBLE).replace("python3", "no-such-program");
    let name = bench.apply(&text).await;
    publish(&bench, &name, 5).await;
    let trouble = || step_status(&bench, &name, "run").workers.and_then(|workers| workers.trouble);
    bench.until(|| trouble().is_some_and(|trouble| trouble.failures > 2), "a crash loop").await;
    let told = trouble().unwrap();
    assert!(told.message.contains("no-such-program") && told.next_start.is_some(), "{told:?}");
    // The program is mended: what waited goes on, and no attempt was used up.
    bench.apply(&flow("", DOUBLE)).await;
    bench.until_seen(5).await;
    assert!(dead(&bench).await.is_empty());
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_program_takes_over_without_loss() {
    let bench = bench().await;
    let name = bench.apply(&flow("workers: 2", DOUBLE)).await;
    publish(&bench, &name, 300).await;
    bench.until_seen(20).await;
    bench.apply(&flow("workers: 2", &DOUBLE.replace("* 2", "* 2 + 1000000"))).await;
    let by_the_new = || bench.bodies().iter().filter(|body| body["number"].as_i64() >= Some(1_000_000)).count();
    // The old one goes on until the new one is up.
    let (mut sent, mut before, mut rounds) = (300, 0, 0);
    while by_the_new() < before + 10 {
        rounds += 1;
        assert!(rounds < 1_000, "the old program is still at work");
        bench.until_seen(sent).await;
        before = by_the_new();
        publish(&bench, &name, 10).await;
        sent += 10;
        bench.until_seen(sent).await;
    }
    bench.until_idle().await;
    assert_eq!(bench.bodies().len(), sent);
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_before_it_says_a_word_costs_no_message_its_life() {
    let bench = bench().await;
    let broken = format!("import time; time.sleep(0.5)\nimport no_such_module\n{DOUBLE}");
    let name = bench.apply(&flow("retry: { first: 10ms, factor: 1 }", &broken)).await;
    publish(&bench, &name, 3).await;
    let trouble = || step_status(&bench, &name, "run").workers.and_then(|workers| workers.trouble);
    bench.until(|| trouble().is_some_and(|trouble| trouble.failures >= 5), "a crash loop").await;
    bench.apply(&flow("retry: { first: 10ms, factor: 1 }", DOUBLE)).await;
    bench.until_seen(3).await;
    assert!(dead(&bench).await.is_empty());
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_may_talk_before_it_has_read_a_large_message() {
    let bench = bench().await;
    let program = "
import sys, json
while True:
    # More than a pipe holds, both ways: neither side may wait for the other.
    first = sys.stdin.read(1)
    if not first: break
    for _ in range(100): print(json.dumps({'log': 'x' * 4000}), flush=True)
    ask = json.loads(first + sys.stdin.readline())
    print(json.dumps({'emit': {'body': {'length': len(ask['body']['text'])}}}))
    print(json.dumps({'done': True}), flush=True)
";
    let name = bench.apply(&flow("", program)).await;
    bench.engine.publish(&name, vec![json!({ "text": "y".repeat(500_000) }); 2]).await.unwrap();
    bench.until_seen(2).await;
    assert_eq!(bench.bodies(), vec![json!({ "length": 500_000 }); 2]);
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_has_the_memory_and_the_privileges_it_may() {
    let bench = bench().await;
    let program = "
import sys, json
for line in sys.stdin:
    status = dict(l.split(':', 1) for l in open('/proc/self/status'))
    try:
        bytearray(200 << 20)
        memory = 'as much as it likes'
    except MemoryError:
        memory = 'bounded'
    print(json.dumps({'emit': {'body': {'memory': memory, 'privileges': status['NoNewPrivs'].strip()}}}))
    print(json.dumps({'done': True}))
";
    let text = flow("", program).replace("    with:\n", "    with:\n      memory: 64MiB\n");
    let name = bench.apply(&text).await;
    publish(&bench, &name, 1).await;
    bench.until_seen(1).await;
    assert_eq!(bench.bodies(), [json!({ "memory": "bounded", "privileges": "1" })]);
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_come_with_the_backlog_and_go_to_none() {
    let bench = bench().await;
    let slow = DOUBLE.replace("    print('working'", "    import time; time.sleep(0.02)\n    print('working'");
    let name = bench.apply(&flow("workers: { min: 0, max: 4 }", &slow)).await;
    let workers = || step_status(&bench, &name, "run").workers.unwrap_or_default();
    for round in 1..3 {
        bench.until(|| (workers().running, workers().wanted) == (0, 0), "nobody").await;
        publish(&bench, &name, 400).await;
        bench.until(|| workers().running == 4, "four workers").await;
        bench.until_seen(400 * round).await;
    }
    bench.until(|| (workers().running, workers().wanted) == (0, 0), "nobody again").await;
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_keeps_its_snapshot_and_a_shell_can_speak_the_protocol() {
    let bench = bench().await;
    // A shell needs no more than this: how far it came is in the snapshot.
    let script = r#"
while read -r line; do
  from=$(printf '%s' "$line" | sed -n 's/.*"snapshot":\([0-9]*\).*/\1/p'); from=${from:-0}
  printf '{"emit":{"body":{"number":%d}}}\n{"snapshot":%d}\n{"done":true}\n' "$from" "$((from + 1))"
done"#;
    let script = serde_json::to_string(script).unwrap();
    let name = bench
        .apply(&format!(
            "name: test\nsteps:\n  in:\n    use: process.poll\n    schedule: {{ cron: \"0 0 29 2 *\" }}\n    workers: {{ min: 0, max: 1 }}\n    \
             with: {{ command: [sh, -c, {script}] }}\n  target: {{ use: test.target, after: in }}\n"
        ))
        .await;
    for count in 1..4 {
        bench.engine.run_now(&name).await.unwrap();
        bench.until_seen(count).await;
    }
    assert_eq!(bench.bodies(), numbers(3));
    bench.engine.shutdown().await;
}

/// Where the test finds the word by which it knows the program of a server that it kills.
const MARK: &str = "FLOWLINE_TEST_MARK";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the server that the next test starts and kills"]
async fn a_server_with_a_program_that_never_ends() {
    let Ok(mark) = std::env::var(MARK) else { return };
    let bench = bench().await;
    let text = flow("", "import time\nwhile True: time.sleep(1)");
    let name =
        bench.apply(&text.replace("command: [python3, -u,", &format!("command: [python3, -u, -X, \"{mark}\","))).await;
    bench.until(|| step_status(&bench, &name, "run").workers.is_some_and(|workers| workers.running == 1), "it").await;
    println!("\nup");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_ends_with_a_server_that_is_killed() {
    use std::{io::BufRead, process};
    let mark = format!("mark={:08x}", rand::random::<u32>());
    let mut server = process::Command::new(std::env::current_exe().unwrap())
        .args(["a_server_with_a_program_that_never_ends", "--exact", "--ignored", "--nocapture"])
        .env(MARK, &mark)
        .stdout(process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(server.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "up"), "the server does not start");
    assert!(is_running(&mark));
    server.kill().unwrap();
    server.wait().unwrap();
    for _ in 0..1_000 {
        if !is_running(&mark) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the program outlives its server");
}
