//! Inputs of `flowline run`: JSON values one after the other, read as they are needed and never
//! all at once. If the whole input is one array, its elements are the inputs.

use std::{
    cell::Cell,
    fs,
    io::{self, BufReader, Read},
    path::Path,
    rc::Rc,
};

use serde_json::{Deserializer, Value};
use tokio::sync::mpsc;

use crate::failure::{Doing as _, Failure, Outcome};

/// Values handed over together.
const BATCH: usize = 256;
/// Batches that are read ahead.
const AHEAD: usize = 4;
/// The longest single value, in bytes.
const LONGEST_VALUE: u64 = 64 << 20;

/// Batches of inputs; the last may say why there are no more.
pub(crate) type Inputs = mpsc::Receiver<Result<Vec<Value>, String>>;

/// Starts reading a file, or standard input if it is called `-`.
pub(crate) fn read(path: &Path) -> Outcome<Inputs> {
    let source: Box<dyn Read + Send> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let file = fs::File::open(path).doing(|| format!("the input {} cannot be read", path.display()))?;
        Box::new(file)
    };
    let (sender, inputs) = mpsc::channel(AHEAD);
    std::thread::Builder::new()
        .name("inputs".to_owned())
        .spawn(move || read_all(source, &sender))
        .map_err(|error| Failure::new(format!("no thread can be started to read the input: {error}")))?;
    Ok(inputs)
}

fn read_all(source: impl Read, sender: &mpsc::Sender<Result<Vec<Value>, String>>) {
    let left = Rc::new(Cell::new(LONGEST_VALUE));
    let bounded = Bounded { source: BufReader::new(source), left: Rc::clone(&left) };
    let mut values = Deserializer::from_reader(bounded).into_iter::<Value>();
    let mut next = || {
        left.set(LONGEST_VALUE);
        values.next()
    };
    let mut batch = Vec::new();
    let mut first = true;
    let mut upcoming = next();
    while let Some(value) = upcoming.take() {
        upcoming = next();
        match value {
            Ok(Value::Array(elements)) if first && upcoming.is_none() => batch = elements,
            Ok(value) => batch.push(value),
            Err(error) => {
                let _gone = sender.blocking_send(Ok(std::mem::take(&mut batch)));
                let _gone = sender.blocking_send(Err(error.to_string()));
                return;
            }
        }
        first = false;
        if batch.len() >= BATCH && !send(sender, &mut batch) {
            return;
        }
    }
    send(sender, &mut batch);
}

/// Hands values over, no more than a batch at once; false if nobody takes them any more.
fn send(sender: &mpsc::Sender<Result<Vec<Value>, String>>, values: &mut Vec<Value>) -> bool {
    let mut rest = std::mem::take(values).into_iter();
    loop {
        let batch: Vec<Value> = rest.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return true;
        }
        if sender.blocking_send(Ok(batch)).is_err() {
            return false;
        }
    }
}

/// A reader that gives no more than is left for one value.
struct Bounded<R> {
    source: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::other(format!("one value is longer than {LONGEST_VALUE} bytes")));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.source.read(&mut buffer[..most])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What comes out: the values, and the error if there is one.
    fn read_text(text: &'static str) -> (Vec<Value>, Option<String>) {
        let (sender, mut inputs) = mpsc::channel(1_000);
        read_all(text.as_bytes(), &sender);
        drop(sender);
        let (mut values, mut error) = (Vec::new(), None);
        while let Some(batch) = inputs.blocking_recv() {
            match batch {
                Ok(batch) => values.extend(batch),
                Err(found) => error = Some(found),
            }
        }
        (values, error)
    }

    #[test]
    fn values_come_one_after_the_other() {
        assert_eq!(read_text("{\"a\": 1}\n{\"a\": 2}\n"), (vec![json!({"a": 1}), json!({"a": 2})], None));
        assert_eq!(read_text(""), (vec![], None));
        assert_eq!(read_text(" \n"), (vec![], None));
    }

    #[test]
    fn an_array_alone_holds_the_inputs() {
        assert_eq!(read_text("[1, 2]"), (vec![json!(1), json!(2)], None));
        assert_eq!(read_text("[1, 2]\n[3]"), (vec![json!([1, 2]), json!([3])], None));
    }

    #[test]
    fn what_stands_before_an_error_counts() {
        let (values, error) = read_text("1\n2\n{oops");
        assert_eq!(values, [json!(1), json!(2)]);
        assert!(error.is_some_and(|error| error.contains("line 3")), "the place is told");
    }
}
