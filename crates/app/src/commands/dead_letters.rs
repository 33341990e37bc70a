//! `flowline dead-letters`: look at them, change them, put them back, throw them away.

use std::{collections::BTreeMap, io::Read as _, path::Path, process::ExitCode};

use flowline_model::FlowName;
use flowline_queue::{DeadLetter, DeadLetterFilter};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{control::confirm, print_json};
use crate::{
    api::{DiscardRequest, ReplayRequest},
    cli::{DeadLetters, DeadLettersCommand, DeadLettersList, Source, Which},
    failure::{Doing as _, Failure, Outcome},
    lookup::{self, Chosen, Lookup},
    render::count,
    table::{self, Column},
};

/// Dead letters read at once to count them.
const PAGE: u32 = 1_000;
/// Counting goes no further.
const MOST_COUNTED: usize = 100_000;

pub(super) async fn run(options: DeadLetters) -> Outcome {
    match options.command {
        None => list(options.list).await,
        Some(DeadLettersCommand::List(options)) => list(options).await,
        Some(DeadLettersCommand::Show { id, source }) => show(id, &source).await,
        Some(DeadLettersCommand::Edit { id, body, newest, source }) => edit(id, body.as_deref(), newest, &source).await,
        Some(DeadLettersCommand::Replay { which, newest, source }) => {
            let request = ReplayRequest { which: chosen(which)?, body: None, newest };
            let replayed = replay(&Lookup::open(&source).await?, request).await?;
            tell(&source, "replayed", replayed)
        }
        Some(DeadLettersCommand::Discard { which, yes, source }) => discard(chosen(which)?, yes, &source).await,
    }
}

/// What the arguments choose; nothing chosen must not mean everything.
fn chosen(which: Which) -> Outcome<Chosen> {
    let Which { ids, criteria, all } = which;
    let chosen = Chosen { ids, flow: criteria.flow, step: criteria.step, code: criteria.code, all };
    if chosen.clone().filter().is_none() {
        return Err(
            Failure::usage("no dead letter is named").hint("name them by id, `--flow`, `--step`, `--code` or `--all`")
        );
    }
    Ok(chosen)
}

async fn list(options: DeadLettersList) -> Outcome {
    let DeadLettersList { criteria, limit, after, source } = options;
    let filter =
        DeadLetterFilter { ids: Vec::new(), flow: criteria.flow, step: criteria.step, code: criteria.code, after };
    let letters = Lookup::open(&source).await?.dead_letters(&filter, limit).await?;
    if source.json {
        return print_json(&letters);
    }
    if letters.is_empty() {
        anstream::println!("no dead letters");
        return Ok(ExitCode::SUCCESS);
    }
    print(&letters);
    if letters.len() == limit as usize {
        let last = letters.last().map_or(0, |letter| letter.id);
        anstream::eprintln!("there may be more: --after {last}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints dead letters as a table.
pub(super) fn print(letters: &[DeadLetter]) {
    let columns = [
        Column::Right("ID"),
        Column::Left("QUEUE"),
        Column::Right("ATTEMPTS"),
        Column::Right("AGE"),
        Column::Left("CODE"),
        Column::Left("CAUSE"),
    ];
    let row = |letter: &DeadLetter| {
        vec![
            letter.id.to_string(),
            letter.queue.to_string(),
            letter.attempts.to_string(),
            table::age(letter.died_at, table::now()),
            letter.fault.code.clone(),
            table::cut(&letter.fault.message, 80),
        ]
    };
    table::print(&columns, letters.iter().map(row));
}

async fn show(id: u64, source: &Source) -> Outcome {
    let letter = Lookup::open(source).await?.dead_letter(id).await?;
    if source.json {
        return print_json(&letter);
    }
    anstream::println!("dead letter {}", letter.id);
    anstream::println!("queue       {}", letter.queue);
    anstream::println!("cause       {} ({})", table::plain(&letter.fault.message), letter.fault.code);
    anstream::println!("attempts    {}", letter.attempts);
    anstream::println!("died        {}, {} ago", letter.died_at, table::age(letter.died_at, table::now()));
    anstream::println!("message     {}", letter.message.id);
    anstream::println!("execution   {}, version {}", letter.message.execution, letter.message.version);
    for (name, value) in &letter.message.headers {
        anstream::println!("header      {name}: {}", table::plain(value));
    }
    for file in &letter.message.attachments {
        anstream::println!(
            "attachment  {} ({}, {})",
            table::plain(&file.name),
            file.content_type,
            table::bytes(file.size)
        );
    }
    anstream::println!("{}", pretty(&letter.message.body)?);
    Ok(ExitCode::SUCCESS)
}

fn pretty(body: &Value) -> Outcome<String> {
    serde_json::to_string_pretty(body).doing(|| "the body cannot be written as JSON".to_owned())
}

async fn edit(id: u64, body: Option<&Path>, newest: bool, source: &Source) -> Outcome {
    let lookup = Lookup::open(source).await?;
    let letter = lookup.dead_letter(id).await?;
    let text = match body {
        Some(path) => read(path)?,
        None => in_editor(&pretty(&letter.message.body)?).await?,
    };
    let body: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::new(format!("the new body is not JSON: {error}")).hint("nothing was changed"))?;
    if body == letter.message.body {
        return Err(Failure::new("the body was not changed, so nothing was done")
            .hint(format!("`flowline dead-letters replay {id}` replays it as it is")));
    }
    let which = Chosen { ids: vec![id], ..Chosen::default() };
    let replayed = replay(&lookup, ReplayRequest { which, body: Some(body), newest }).await?;
    tell(source, "replayed", replayed)
}

fn read(path: &Path) -> Outcome<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.doing(|| format!("the body {} cannot be read", path.display()))?;
    Ok(text)
}

/// Lets a person change a text in their editor.
async fn in_editor(text: &str) -> Outcome<String> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(std::env::var_os).filter(|editor| !editor.is_empty());
    let editor = editor.ok_or_else(|| {
        Failure::usage("there is no editor to open").hint("set EDITOR, or give the new body with `--body FILE`")
    })?;
    let cannot = || "the body cannot be given to the editor".to_owned();
    let file = tempfile::Builder::new().prefix("dead-letter-").suffix(".json").tempfile().doing(cannot)?;
    std::fs::write(file.path(), text).doing(cannot)?;
    // The variable may hold arguments too, such as `code --wait`: a shell takes it apart.
    let status = tokio::process::Command::new("sh")
        .arg("-c")
        .arg("exec $EDITOR_COMMAND \"$0\"")
        .arg(file.path())
        .env("EDITOR_COMMAND", &editor)
        .status()
        .await
        .doing(cannot)?;
    if !status.success() {
        return Err(Failure::new(format!("the editor ended with {status}; nothing was changed")));
    }
    std::fs::read_to_string(file.path()).doing(|| "the edited body cannot be read".to_owned())
}

#[derive(Deserialize)]
struct Replayed {
    replayed: u64,
}

#[derive(Deserialize)]
struct Discarded {
    discarded: u64,
}

async fn replay(lookup: &Lookup, request: ReplayRequest) -> Outcome<u64> {
    match lookup {
        Lookup::Server(client) => {
            let Replayed { replayed } = client.post("dead-letters/replay", Some(&request)).await?;
            Ok(replayed)
        }
        Lookup::Stopped(_) if request.newest => {
            Err(Failure::usage("only a running server knows the newest version of a flow")
                .hint("start it with `flowline up`"))
        }
        Lookup::Stopped(records) => {
            let filter = request.which.filter().unwrap_or_default();
            Ok(lookup::replay(records, filter, request.body, None::<BTreeMap<FlowName, u32>>).await?)
        }
    }
}

async fn discard(chosen: Chosen, yes: bool, source: &Source) -> Outcome {
    let lookup = Lookup::open(source).await?;
    let Some(filter) = chosen.clone().filter() else { return Err(Failure::silent()) };
    if !yes {
        let number = number_of(&lookup, filter.clone()).await?;
        let at_least = if number == MOST_COUNTED { "at least " } else { "" };
        confirm(&format!("Throw away {at_least}{}?", count(number, "dead letter")))?;
    }
    let discarded = match &lookup {
        Lookup::Server(client) => {
            let Discarded { discarded } =
                client.post("dead-letters/discard", Some(&DiscardRequest { which: chosen })).await?;
            discarded
        }
        Lookup::Stopped(records) => records.discard_dead_letters(&filter).await?,
    };
    tell(source, "discarded", discarded)
}

/// How many dead letters a filter means, counted no further than is worth it.
async fn number_of(lookup: &Lookup, mut filter: DeadLetterFilter) -> Outcome<usize> {
    if !filter.ids.is_empty() {
        return Ok(filter.ids.len());
    }
    let mut number = 0;
    while number < MOST_COUNTED {
        let page = lookup.dead_letters(&filter, PAGE).await?;
        number += page.len();
        match page.last() {
            Some(last) if page.len() == PAGE as usize => filter.after = Some(last.id),
            _ => break,
        }
    }
    Ok(number.min(MOST_COUNTED))
}

/// Says how many it were; none is a failure when some were named.
fn tell(source: &Source, done: &str, number: u64) -> Outcome {
    if source.json {
        return print_json(&json!({ done: number }));
    }
    anstream::println!("{} {done}", count(usize::try_from(number).unwrap_or(usize::MAX), "dead letter"));
    Ok(if number == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
