//! Every step in a container of its own, with containers and the server killed under load:
//! everything that was accepted arrives once, and nothing is left behind.
//!
//! Needs a Docker engine and the images (`make images`). `FLOWLINE_CONTAINER_KILLS`,
//! `FLOWLINE_KILLS`, `FLOWLINE_MESSAGES` and `FLOWLINE_SEED` make it longer or repeat it.

mod storm;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::sleep};

use storm::{
    client,
    deliveries::Item,
    docker::{Containers, Network},
    eventually,
    ledger::Ledger,
    program::{Installation, Program, free_port},
    setting,
    target::Target,
};

/// How many clients send at the same time.
const SENDERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_loses_nothing_however_often_containers_and_the_server_are_killed() {
    let storm = Storm::new(setting("FLOWLINE_MESSAGES", 5_000));
    let network = Network::new();
    let target = Target::on(&network.address, 0);
    let mailbox = Mailbox::start(&network, storm.messages);
    let flow = story(&target, &network, &mailbox);
    let installation = Arc::new(Installation::new(&format!("network: {}\n", network.name), &[("story.yaml", flow)]));
    let mut program = installation.up().await;
    let containers = Containers::of(&installation);

    let senders = storm.send_all(&installation, "story");
    let mut random = StdRng::seed_from_u64(storm.seed);
    let (lives, kills) = (setting("FLOWLINE_KILLS", 10), setting("FLOWLINE_CONTAINER_KILLS", 30));
    for life in 1..=lives {
        kill_some(&containers, kills.div_ceil(lives), &mut random).await;
        program.kill();
        storm.allow(life, lives);
        program = installation.up().await;
    }
    senders.join_all().await;
    eventually("everything accepted arrives", async || storm.missing(&target, &BTreeSet::new()) == 0).await;
    eventually("the queues are empty", async || waiting(&installation).await == 0).await;

    let dead = installation.dead_letters("story").await;
    assert_eq!(dead, [json!(null); 0], "nothing dies of killed workers");
    let mails = mailbox.subjects().await;
    let (ledger, arrived) = (storm.ledger(), target.deliveries());
    println!(
        "seed {}: {lives} kills of the server, {kills} of containers; {} requests accepted, {} unanswered; {} arrived, {} repeated with the same key",
        storm.seed,
        ledger.accepted(),
        ledger.possible(),
        arrived.len(),
        arrived.repeats(),
    );
    assert_eq!(ledger.violations(&arrived, &[]), [""; 0]);
    // One mail for each, by its Message-ID.
    let wrong: Vec<_> = arrived.items().filter(|item| mails.get(&item.name) != Some(&1)).collect();
    assert_eq!((wrong.len(), mails.len()), (0, arrived.len()), "{wrong:?}");
    drop((ledger, arrived));
    program.end();
    assert_eq!(containers.all(), [""; 0], "no container is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_of_elastic_io_loses_nothing_in_the_same_storm() {
    let numbers = setting("FLOWLINE_NUMBERS", 200);
    let storm = Storm::new(0);
    let network = Network::new();
    let target = Target::on(&network.address, 0);
    let installation = Installation::new(&format!("network: {}\n", network.name), &[]).with_secret("sample", "sample");
    add_sample(&installation);
    installation.write("numbers.yaml", &sample(&target, numbers));
    for number in 1..=numbers {
        storm.ledger().promise(Item::new("number", number));
        (0..10).for_each(|index| storm.ledger().promise(Item::new("many", format!("{number}/{index}"))));
    }
    let mut program = installation.up().await;
    let containers = Containers::of(&installation);
    let mut random = StdRng::seed_from_u64(storm.seed);
    let (lives, kills) = (setting("FLOWLINE_KILLS", 10), setting("FLOWLINE_CONTAINER_KILLS", 30));
    for _ in 1..=lives {
        kill_some(&containers, kills.div_ceil(lives), &mut random).await;
        program.kill();
        program = installation.up().await;
    }
    eventually("every number arrives", async || storm.missing(&target, &BTreeSet::new()) == 0).await;
    eventually("the queues are empty", async || waiting(&installation).await == 0).await;
    assert_eq!(installation.dead_letters("numbers").await, [json!(null); 0]);
    let arrived = target.deliveries();
    println!("seed {}: {} arrived, {} repeated with the same key", storm.seed, arrived.len(), arrived.repeats());
    // Among them: no message came under two ids, no id with two messages.
    assert_eq!(storm.ledger().violations(&arrived, &[]), [""; 0]);
    drop(arrived);
    program.end();
    assert_eq!(containers.all(), [""; 0], "no container is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_of_elastic_io_replies_fails_and_is_scaled() {
    let network = Network::new();
    let installation = Installation::new(&format!("network: {}\n", network.name), &[]).with_secret("sample", "sample");
    add_sample(&installation);
    let credential = "credential: { token: '{{ $secret.sample }}' }";
    installation.write(
        "ask.yaml",
        &format!(
            "name: ask
steps:
  question: {{ use: webhook.receive, with: {{ wait_for_reply: 60s }} }}
  answer: {{ use: sample-node.reply, after: question, with: {{ fields: {{ status: '201' }}, {credential} }} }}
"
        ),
    );
    installation.write(
        "fail.yaml",
        &format!(
            "name: fail
steps:
  form: {{ use: webhook.receive }}
  failing: {{ use: sample-node.failing, after: form, retry: false, with: {{ {credential} }} }}
"
        ),
    );
    installation.write(
        "scaled.yaml",
        &format!(
            "name: scaled
steps:
  form: {{ use: webhook.receive }}
  work: {{ use: sample-node.pass, after: form, workers: {{ min: 0, max: 4 }}, with: {{ {credential} }} }}
"
        ),
    );
    let program = installation.up().await;
    let containers = Containers::of(&installation);
    let client = client::new();

    let asked =
        client.post(installation.url("/hook/ask")).json(&json!({ "question": 6 })).send().await.expect("an answer");
    assert_eq!(asked.status().as_u16(), 201);
    assert_eq!(asked.json::<Value>().await.expect("JSON"), json!({ "question": 6 }));

    client::accepted(&client, &installation.url("/hook/fail"), &json!({ "n": 1 })).await;
    eventually("the failure is a dead letter", async || !installation.dead_letters("fail").await.is_empty()).await;
    let letters = installation.dead_letters("fail").await;
    assert_eq!(letters[0]["fault"]["message"], "Error: asked to fail");

    assert_eq!(containers.of_step("work"), [""; 0], "none runs without work");
    for number in 0..400 {
        client::accepted(&client, &installation.url("/hook/scaled"), &json!({ "n": number })).await;
    }
    eventually("a worker comes with the first message", async || !containers.of_step("work").is_empty()).await;
    eventually("all is done", async || waiting(&installation).await == 0).await;
    eventually("the last worker goes", async || containers.of_step("work").is_empty()).await;
    client::accepted(&client, &installation.url("/hook/scaled"), &json!({ "n": 400 })).await;
    eventually("one comes back", async || waiting(&installation).await == 0).await;
    program.end();
    assert_eq!(containers.all(), [""; 0], "no container is left");
}

/// Kills so many containers, one after the other, whatever they are doing.
async fn kill_some(containers: &Containers, count: u64, random: &mut StdRng) {
    for _ in 0..count {
        sleep(Duration::from_millis(random.random_range(100..1_500))).await;
        eventually("there is a container to kill", async || {
            containers.running().choose(random).is_some_and(|name| Containers::kill(name))
        })
        .await;
    }
}

/// What is sent in a storm, and what is known of it.
#[derive(Clone)]
struct Storm {
    seed: u64,
    messages: u64,
    allowed: Arc<AtomicU64>,
    next: Arc<AtomicU64>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Storm {
    fn new(messages: u64) -> Self {
        let seed = setting("FLOWLINE_SEED", rand::random::<u32>().into());
        // The first of eleven parts; another with each life of the server.
        let allowed = Arc::new(AtomicU64::new(messages / 11));
        Self { seed, messages, allowed, next: Arc::default(), ledger: Arc::default() }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self, target: &Target, dead: &BTreeSet<Item>) -> usize {
        self.ledger().missing(&target.deliveries(), dead).len()
    }

    /// Lets more be sent with each life of the server; all in the last.
    fn allow(&self, life: u64, lives: u64) {
        self.allowed.store(self.messages * (life + 1) / (lives + 1), Ordering::Relaxed);
    }

    /// Starts clients that send until all messages are accepted.
    fn send_all(&self, installation: &Arc<Installation>, hook: &str) -> JoinSet<()> {
        let mut senders = JoinSet::new();
        for _ in 0..SENDERS {
            let url = installation.url(&format!("/hook/{hook}"));
            senders.spawn(self.clone().send_one_after_another(url));
        }
        senders
    }

    async fn send_one_after_another(self, url: String) {
        let client = client::new();
        while (self.ledger().accepted() as u64) < self.messages {
            if self.ledger().accepted() as u64 >= self.allowed.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(20)).await;
                continue;
            }
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let body = json!({
                "id": id, "first": "Ada", "last": "Lovelace", "email": "Ada@Example.com",
                "lines": [{ "price": 450, "quantity": 2 }],
            });
            let fate = client::send(&client, &url, None, &body).await;
            if !matches!(fate, client::Fate::Accepted(_)) {
                sleep(Duration::from_millis(50)).await;
            }
            self.ledger().note(fate, vec![Item::new("cms", id)]);
        }
    }
}

/// The story of the examples in containers, with a target that keeps account.
fn story(target: &Target, network: &Network, mailbox: &Mailbox) -> String {
    let (cms, host, port) = (target.url("/deliver/cms"), &network.address, mailbox.smtp_port);
    format!(
        "name: story
runtime: docker
steps:
  form: {{ use: webhook.receive }}
  customer:
    use: transform.map
    after: form
    workers: 2
    container: {{ memory: 64MiB }}
    with: {{ map: {{ id: '{{{{ id }}}}', name: \"{{{{ first & ' ' & last }}}}\", email: '{{{{ $lowercase(email) }}}}', total: '{{{{ $sum(lines.(price * quantity)) }}}}' }} }}
  cms:
    use: http.request
    after: customer
    prefetch: 4
    container: {{ memory: 64MiB }}
    with: {{ method: POST, url: '{cms}', body: '{{{{ $ }}}}' }}
  notify:
    use: email.send
    after: cms
    prefetch: 16
    container: {{ memory: 64MiB }}
    with:
      from: flowline@example.com
      to: team@example.com
      subject: '{{{{ $string($steps.customer.id) }}}}'
      text: '{{{{ $steps.customer.name }}}}'
      server: {{ host: '{host}', port: {port}, security: none, insecure: true }}
"
    )
}

/// The sample component in every step: a poll, some that wait, and many for one.
fn sample(target: &Target, numbers: u64) -> String {
    let credential = "credential: { token: '{{ $secret.sample }}' }";
    let post = |route: &str| format!("fields: {{ url: '{}' }}, {credential}", target.url(&format!("/deliver/{route}")));
    format!(
        "name: numbers
steps:
  source:
    use: sample-node.numbers
    schedule: {{ every: 1s }}
    with: {{ fields: {{ count: '10', last: '{numbers}' }}, {credential} }}
  patient: {{ use: sample-node.patient, after: source, prefetch: 10, with: {{ {credential} }} }}
  number:
    use: sample-node.post
    after: patient
    prefetch: 10
    with: {{ {}, body: {{ id: '{{{{ number }}}}' }} }}
  many: {{ use: sample-node.many, after: source, with: {{ fields: {{ size: '10' }}, {credential} }} }}
  each:
    use: sample-node.post
    after: many
    workers: 2
    prefetch: 10
    with: {{ {}, body: {{ id: \"{{{{ $steps.source.number & '/' & index }}}}\" }} }}
",
        post("number"),
        post("many"),
    )
}

/// Registers the sample component, as a user would.
fn add_sample(installation: &Installation) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/components/sample-node");
    installation.command(&["components", "add", &folder.to_string_lossy(), "--name", "sample-node"]);
}

/// How many messages wait anywhere but before a trigger that polls.
async fn waiting(installation: &Installation) -> u64 {
    let queues = installation.api("/queues").await;
    let queues = queues["queues"].as_array().cloned().unwrap_or_default();
    let actions = queues.iter().filter(|queue| !queue["queue"].as_str().is_some_and(|name| name.ends_with("/source")));
    actions
        .map(|queue| ["ready", "leased", "delayed"].iter().filter_map(|state| queue[*state].as_u64()).sum::<u64>())
        .sum()
}

/// The mailbox of the examples, where containers reach it.
struct Mailbox {
    page_port: u16,
    smtp_port: u16,
    _program: Program,
    _folder: TempDir,
}

impl Mailbox {
    fn start(network: &Network, keep: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (page_port, smtp_port) = (free_port(), free_port());
        let (page, smtp) = (format!("127.0.0.1:{page_port}"), format!("{}:{smtp_port}", network.address));
        // Those whose senders never got an answer come as well.
        let keep = (keep * 2).to_string();
        let arguments = ["--listen", &page, "--smtp", &smtp, "--keep", &keep];
        let program = Program::of("story-mailbox", &arguments, &folder.path().join("log"));
        Self { page_port, smtp_port, _program: program, _folder: folder }
    }

    /// How many different mails there are of each subject.
    async fn subjects(&self) -> BTreeMap<String, usize> {
        let url = format!("http://127.0.0.1:{}/api/mails", self.page_port);
        let answer = client::new().get(url).send().await.expect("the mailbox answers");
        let answer: Value = answer.json().await.expect("JSON");
        let mut subjects = BTreeMap::new();
        for mail in answer["mails"].as_array().into_iter().flatten() {
            *subjects.entry(mail["subject"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        subjects
    }
}
