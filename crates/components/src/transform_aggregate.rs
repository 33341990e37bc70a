//! `transform.aggregate`: gathers messages with the same key into one, durably.
//!
//! The engine hands over one message of a key at a time. What is gathered lies in the step's
//! state: `g/<key>` describes the open group of a key, `m/<key>/<group>/<message>` is one member.
//! A group is named after its first member, so nothing of an earlier group is ever mistaken for
//! it. A group that may wait too long reminds itself through a delayed message to this step.

use std::time::Duration;

use flowline_sdk::{Attachment, MessageId};
use flowline_sdk::{model::decide::REMINDER, prelude::*};

/// The most members of a group.
const MOST_MEMBERS: usize = 10_000;
/// The most bytes of a group.
const LARGEST: Size = Size::mib(8);
/// The longest key in bytes.
const LONGEST_KEY: usize = 1_024;
/// How many members are read at once.
const PAGE: usize = 1_000;

/// What is gathered, and until when.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [{ "required": ["count"] }, { "required": ["timeout"] }]))]
pub(crate) struct AggregateConfig {
    /// Messages with the same key are gathered together. Without it all are.
    #[serde(default)]
    key: Option<Value>,
    /// Complete with so many members.
    #[serde(default)]
    #[schemars(range(min = 1, max = MOST_MEMBERS))]
    count: Option<usize>,
    /// The most bytes of a group's members as JSON, at most 8MiB. A member that would make the
    /// group larger completes it and begins the next one.
    #[serde(default = "one_mebibyte")]
    #[schemars(with = "Size")]
    size: Size,
    /// Complete so long after the first member came.
    #[serde(default)]
    timeout: Option<Lapse>,
    /// What is gathered of each message. Without it, or where its expression has no result, the
    /// whole body.
    #[serde(default)]
    item: Option<Value>,
}

fn one_mebibyte() -> Size {
    Size::mib(1)
}

/// Why a group is complete.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Reason {
    Count,
    Size,
    Timeout,
}

/// A group that is not complete yet.
#[derive(Serialize, Deserialize)]
struct Group {
    /// The message of the first member names the group.
    generation: MessageId,
    count: usize,
    bytes: u64,
    first_at: Timestamp,
    /// Whether a reminder is on its way.
    reminded: bool,
}

/// One of its members.
#[derive(Serialize, Deserialize)]
struct Member {
    /// Its place in the group.
    place: usize,
    item: Value,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<Attachment>,
}

/// What a group sends to itself.
#[derive(Serialize, Deserialize)]
struct Reminder {
    reminder: String,
    generation: MessageId,
}

pub(crate) struct Aggregate;

impl Action for Aggregate {
    type Config = AggregateConfig;

    fn spec() -> OperationSpec {
        OperationSpec::action("transform.aggregate", "Aggregate", "Gathers messages with the same key into one.")
            .description(
                "A group is complete when it has `count` members, when one more would exceed `size`, or `timeout` \
                 after its first member came. It is then emitted as `{ \"key\": …, \"count\": …, \"items\": […], \
                 \"reason\": \"count\" }` (or `size`, `timeout`), in the order in which its members came and with \
                 all their files. What is gathered is durable: it survives every restart.\n\n\
                 `count`, `timeout` or both are needed; no group has more than 10000 members or 8MiB.",
            )
            .ordered_by("key")
            .example("key: \"{{ customer.id }}\"\ncount: 100\ntimeout: 5m")
            .example("timeout: 1h\nsize: 256KiB\nitem: \"{{ { 'id': id, 'total': total } }}\"")
    }

    async fn run(&self, cx: &Context, config: AggregateConfig, input: Message) -> Result<Vec<Emit>, Fault> {
        let limits = Limits::of(&config)?;
        if input.headers.contains_key(REMINDER) {
            return remind(cx, input.body).await;
        }
        let key = text(config.key);
        if key.len() > LONGEST_KEY {
            return Err(Fault::reject("key_too_long", format!("the key is longer than {LONGEST_KEY} bytes")));
        }
        Gathering { cx, slot: Slot::of(key), limits }.add(config.item, input).await
    }
}

/// When a group is complete.
struct Limits {
    count: usize,
    bytes: u64,
    timeout: Option<Duration>,
}

impl Limits {
    fn of(config: &AggregateConfig) -> Result<Self, Fault> {
        let misconfigured = |why: String| Err(Fault::misconfigured("config_invalid", why));
        if config.count.is_none() && config.timeout.is_none() {
            return misconfigured("`count` or `timeout` is needed: no group would ever be complete".to_owned());
        }
        let count = config.count.unwrap_or(MOST_MEMBERS);
        if !(1..=MOST_MEMBERS).contains(&count) {
            return misconfigured(format!("`count` is 1 to {MOST_MEMBERS}, not {count}"));
        }
        if config.size > LARGEST {
            return misconfigured(format!("`size` is at most {LARGEST}, not {}", config.size));
        }
        Ok(Self { count, bytes: config.size.0, timeout: config.timeout.map(|lapse| lapse.0) })
    }
}

/// The key as text: the same as that by which the engine orders the messages.
fn text(key: Option<Value>) -> String {
    match key {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
    }
}

/// Where the groups of a key are remembered.
struct Slot {
    key: String,
    /// The key without slashes, so that the entries of two keys never mix.
    encoded: String,
}

impl Slot {
    fn of(key: String) -> Self {
        let encoded = url::form_urlencoded::byte_serialize(key.as_bytes()).collect();
        Self { key, encoded }
    }

    fn group(&self) -> String {
        format!("g/{}", self.encoded)
    }

    fn members(&self, generation: MessageId) -> String {
        format!("m/{}/{generation}/", self.encoded)
    }

    /// Empties a group into one emit; `last` was never remembered.
    async fn complete(
        &self,
        cx: &Context,
        generation: MessageId,
        reason: Reason,
        last: Option<Member>,
    ) -> Result<Emit, Fault> {
        let mut members = self.take_members(cx, generation).await?;
        members.extend(last);
        members.sort_by_key(|member| member.place);
        cx.forget(self.group());
        let mut items = Vec::with_capacity(members.len());
        let mut attachments = Vec::new();
        for member in members {
            items.push(member.item);
            attachments.extend(member.attachments);
        }
        let body = json!({ "key": self.key, "count": items.len(), "items": items, "reason": reason });
        Ok(Emit::new(body).attachments(attachments))
    }

    async fn take_members(&self, cx: &Context, generation: MessageId) -> Result<Vec<Member>, Fault> {
        let prefix = self.members(generation);
        let mut members = Vec::new();
        let mut after = String::new();
        loop {
            let page = cx.states(&prefix, &after, PAGE).await?;
            let last_page = page.len() < PAGE;
            for (entry, value) in page {
                members.push(serde_json::from_value(value).map_err(|error| unreadable(&error))?);
                cx.forget(entry.as_str());
                after = entry;
            }
            if last_page {
                return Ok(members);
            }
        }
    }
}

fn unreadable(error: &serde_json::Error) -> Fault {
    Fault::reject("state_unreadable", format!("what the group remembers: {error}"))
}

/// A message on its way into the group of its key.
struct Gathering<'a> {
    cx: &'a Context,
    slot: Slot,
    limits: Limits,
}

impl Gathering<'_> {
    async fn add(self, item: Option<Value>, input: Message) -> Result<Vec<Emit>, Fault> {
        let mut open = self.cx.state::<Group>(&self.slot.group()).await?;
        if let Some(group) = &open
            && self.is_member(group, input.id).await?
        {
            return Ok(Vec::new());
        }
        let headers = input.headers;
        let item = item.unwrap_or(input.body);
        let bytes = item.to_string().len() as u64;
        let mut emits = Vec::new();
        if let Some(full) = open.take_if(|group| group.bytes + bytes > self.limits.bytes) {
            emits.push(self.slot.complete(self.cx, full.generation, Reason::Size, None).await?);
        }
        let mut group = open.unwrap_or_else(|| Group::begin(input.id, self.cx.now()));
        let member = Member { place: group.count, item, attachments: input.attachments };
        group.count += 1;
        group.bytes += bytes;
        if let Some(reason) = self.complete_by(&group) {
            emits.push(self.slot.complete(self.cx, group.generation, reason, Some(member)).await?);
            return Ok(emits);
        }
        if let Some(mut reminder) = self.reminder(&mut group)? {
            // So that what is emitted in the end has the headers of a member.
            reminder.headers = headers;
            emits.push(reminder);
        }
        self.cx.remember(self.slot.members(group.generation) + &input.id.to_string(), member)?;
        self.cx.remember(self.slot.group(), group)?;
        Ok(emits)
    }

    /// Whether a message that was delivered again is in the group already.
    async fn is_member(&self, group: &Group, message: MessageId) -> Result<bool, Fault> {
        let entry = self.slot.members(group.generation) + &message.to_string();
        Ok(self.cx.state::<Value>(&entry).await?.is_some())
    }

    fn complete_by(&self, group: &Group) -> Option<Reason> {
        if group.count >= self.limits.count {
            return Some(Reason::Count);
        }
        (group.bytes >= self.limits.bytes).then_some(Reason::Size)
    }

    /// The reminder of a group that has none on its way yet.
    fn reminder(&self, group: &mut Group) -> Result<Option<Emit>, Fault> {
        let Some(timeout) = self.limits.timeout.filter(|_| !group.reminded) else { return Ok(None) };
        group.reminded = true;
        let body = Reminder { reminder: self.slot.key.clone(), generation: group.generation };
        let body = serde_json::to_value(body).map_err(|error| unreadable(&error))?;
        let passed = self.cx.now().since(group.first_at);
        Ok(Some(Emit::reminder(body, timeout.saturating_sub(passed))))
    }
}

impl Group {
    fn begin(generation: MessageId, now: Timestamp) -> Self {
        Self { generation, count: 0, bytes: 0, first_at: now, reminded: false }
    }
}

/// Completes the group that a reminder is about, if it is still open.
async fn remind(cx: &Context, body: Value) -> Result<Vec<Emit>, Fault> {
    let Reminder { reminder, generation } = serde_json::from_value(body)
        .map_err(|error| Fault::reject("reminder_unreadable", format!("the reminder: {error}")))?;
    let slot = Slot::of(reminder);
    match cx.state::<Group>(&slot.group()).await? {
        Some(group) if group.generation == generation => {
            Ok(vec![slot.complete(cx, generation, Reason::Timeout, None).await?])
        }
        _ => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flowline_sdk::{Recipient, testing::TestHost};

    use super::*;

    struct Step {
        host: Arc<TestHost>,
        config: Value,
    }

    impl Step {
        fn new(config: Value) -> Self {
            Self { host: TestHost::new(), config }
        }

        /// What a run with `key` evaluated for this body emits.
        async fn run(&self, input: Message) -> Result<Vec<Emit>, Fault> {
            let mut config = self.config.clone();
            if let Some(key) = input.body.get("k") {
                config["key"] = key.clone();
            }
            Ok(self.host.run(&Operation::action(Aggregate), config, input).await?.emits)
        }

        async fn add(&self, body: Value) -> Vec<Emit> {
            self.run(self.host.message(body)).await.unwrap()
        }

        /// Delivers a reminder as the engine does.
        async fn remind(&self, reminder: &Emit) -> Vec<Emit> {
            self.host.advance(reminder.delay.unwrap());
            let mut input = self.host.message(reminder.body.clone());
            input.headers.clone_from(&reminder.headers);
            input.headers.insert(REMINDER.to_owned(), "1".to_owned());
            self.run(input).await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_group_is_complete_with_its_last_member_and_forgotten() {
        let step = Step::new(json!({ "count": 2 }));
        assert_eq!(step.add(json!({ "k": "a", "n": 1 })).await, []);
        assert_eq!(step.add(json!({ "k": "a/b", "n": 2 })).await, []);
        let done = step.add(json!({ "k": "a", "n": 3 })).await;
        let items = json!([{ "k": "a", "n": 1 }, { "k": "a", "n": 3 }]);
        assert_eq!(done, [Emit::new(json!({ "key": "a", "count": 2, "items": items, "reason": "count" }))]);
        let rest: Vec<String> = step.host.entries().into_iter().map(|(key, _)| key).collect();
        assert_eq!(rest.len(), 2, "only the other key's group: {rest:?}");
        assert!(rest.iter().all(|key| key.contains("a%2Fb")), "{rest:?}");
    }

    #[tokio::test]
    async fn many_members_keep_their_order() {
        let step = Step::new(json!({ "count": 2_500 }));
        for n in 0..2_499 {
            assert_eq!(step.add(json!(n)).await, []);
        }
        let done = step.add(json!(2_499)).await;
        assert_eq!(done[0].body["items"], (0..2_500).collect::<Value>());
        assert_eq!(step.host.entries(), []);
    }

    #[tokio::test]
    async fn a_group_is_complete_when_its_time_is_over() {
        let step = Step::new(json!({ "timeout": "5m", "item": 7 }));
        let mut input = step.host.message(json!({ "k": 42 }));
        input.headers.insert("x-a".to_owned(), "1".to_owned());
        let first = step.run(input).await.unwrap();
        assert_eq!((first.len(), first[0].to.clone()), (1, Recipient::Myself));
        assert_eq!(first[0].delay, Some(Duration::from_secs(300)));
        assert_eq!(first[0].headers["x-a"], "1");
        assert_eq!(step.add(json!({ "k": "42" })).await, [], "one reminder is enough");
        let done = step.remind(&first[0]).await;
        let body = json!({ "key": "42", "count": 2, "items": [7, 7], "reason": "timeout" });
        assert_eq!(done, [Emit::new(body)]);
        assert_eq!(step.host.entries(), []);
    }

    #[tokio::test]
    async fn a_reminder_of_an_earlier_group_does_nothing() {
        let step = Step::new(json!({ "count": 2, "timeout": "5m" }));
        let reminder = step.add(json!(1)).await.remove(0);
        assert_eq!(step.add(json!(2)).await.len(), 1);
        assert_eq!(step.remind(&reminder).await, [], "no group is open");
        step.add(json!(3)).await;
        assert_eq!(step.remind(&reminder).await, [], "another group is open");
    }

    #[tokio::test]
    async fn a_member_that_is_too_much_begins_the_next_group() {
        let step = Step::new(json!({ "count": 100, "size": "10", "timeout": "1m" }));
        assert_eq!(step.add(json!("1234")).await.len(), 1, "the reminder");
        let emits = step.add(json!("12345")).await;
        let bodies: Vec<_> = emits.iter().map(|emit| emit.body.clone()).collect();
        assert_eq!(bodies[0], json!({ "key": "", "count": 1, "items": ["1234"], "reason": "size" }));
        assert_eq!((emits.len(), emits[1].to.clone()), (2, Recipient::Myself));
        let emits = step.add(json!("longer than ten")).await;
        let items: Vec<_> = emits.iter().map(|emit| emit.body["items"].clone()).collect();
        assert_eq!(items, [json!(["12345"]), json!(["longer than ten"])], "the second is a group of its own");
        assert_eq!(step.host.entries(), []);
    }

    #[tokio::test]
    async fn a_message_that_comes_again_is_one_member() {
        let step = Step::new(json!({ "count": 2, "timeout": "1m" }));
        let input = step.host.message(json!(1));
        assert_eq!(step.run(input.clone()).await.unwrap().len(), 1);
        assert_eq!(step.run(input).await.unwrap(), []);
        assert_eq!(step.add(json!(2)).await[0].body["items"], json!([1, 2]));
    }

    #[tokio::test]
    async fn files_of_all_members_are_emitted() {
        let step = Step::new(json!({ "count": 2 }));
        for expected in [0, 2] {
            let mut input = step.host.message(json!({}));
            let file = |name: &str| Attachment {
                id: name.to_owned(),
                name: name.to_owned(),
                content_type: "text/plain".to_owned(),
                size: 1,
            };
            input.attachments = vec![file(&format!("{expected}.txt"))];
            let emits = step.run(input).await.unwrap();
            assert_eq!(emits.iter().map(|emit| emit.attachments.len()).sum::<usize>(), expected);
        }
    }

    #[tokio::test]
    async fn what_could_never_work_is_misconfigured() {
        for config in
            [json!({}), json!({ "count": 0 }), json!({ "count": 10_001 }), json!({ "timeout": "1m", "size": "9MiB" })]
        {
            let step = Step::new(config.clone());
            let fault = step.run(step.host.message(json!({}))).await.unwrap_err();
            assert_eq!(fault.kind, FaultKind::Misconfigured, "{config}");
        }
        let step = Step::new(json!({ "count": 2 }));
        let fault = step.run(step.host.message(json!({ "k": "x".repeat(1_025) }))).await.unwrap_err();
        assert_eq!(fault.code, "key_too_long");
    }
}
