//! Mending a damaged write-ahead log: every frame that can be trusted, with checksums that fit.
//!
//! A single wrong byte can be found and set right for certain, since the checksum of its frame
//! says by how much it is off. The checksum in the frame *after* a damaged one shows where the
//! chain goes on. What cannot be set right is left out, never guessed.

use std::{io, path::Path};

use super::wal::{FRAME_HEADER, Frame, Header, Log, Sum};

/// A log with checksums that fit, and what had to be done for it.
#[derive(Debug, Default)]
pub(crate) struct Mended {
    /// The whole new file; empty if there is nothing to keep.
    pub(crate) bytes: Vec<u8>,
    /// Frames in which one byte was set right.
    pub(crate) corrected: u64,
    /// Frames that were left out.
    pub(crate) dropped: u64,
}

/// Reads a log and mends what can be mended; `page_size` is that of the main file.
pub(crate) fn mend(path: &Path, page_size: usize) -> io::Result<Mended> {
    let Some(mut log) = Log::open(path)? else { return Ok(Mended::default()) };
    let whole = log.header.take().filter(|header| header.whole);
    let page_size = whole.as_ref().map_or(page_size, |header| header.page_size);
    let mut frames = Vec::new();
    while let Some(frame) = log.next_frame(page_size)? {
        frames.push(frame);
    }
    // With a damaged header nothing is known before the first frame.
    let before = whole.as_ref().map(|header| header.sum);
    let Some(header) = whole.or_else(|| guess_header(page_size, &frames)) else { return Ok(Mended::default()) };
    // Behind the last frame of this generation is nothing that was ever committed.
    let ours = frames.iter().rposition(|frame| frame.salts() == header.salts).map_or(0, |last| last + 1);
    let mut mender = Mender { header, mended: Mended::default(), kept: Vec::new() };
    mender.take(&frames[..ours], before);
    Ok(mender.finish())
}

/// The header with which most of the first frames follow each other.
fn guess_header(page_size: usize, frames: &[Frame]) -> Option<Header> {
    let first = &frames[..frames.len().min(64)];
    let salts = first
        .iter()
        .map(Frame::salts)
        .max_by_key(|salts| first.iter().filter(|frame| frame.salts() == *salts).count())?;
    let following = |header: &Header| {
        let follows = |pair: &&[Frame]| header.sum_after(pair[0].stored_sum(), &pair[1]) == pair[1].stored_sum();
        first.windows(2).filter(follows).count()
    };
    [false, true].into_iter().filter_map(|big| Header::anew(big, page_size, salts)).max_by_key(following)
}

struct Mender {
    header: Header,
    mended: Mended,
    kept: Vec<Frame>,
}

impl Mender {
    fn take(&mut self, frames: &[Frame], mut before: Option<Sum>) {
        for (index, frame) in frames.iter().enumerate() {
            let next = frames.get(index + 1);
            let stored = frame.stored_sum();
            let follows = |sum: Sum| next.is_some_and(|next| self.header.sum_after(sum, next) == next.stored_sum());
            let computed = before.map(|before| self.header.sum_after(before, frame));
            before = match computed {
                Some(computed) if computed == stored || follows(computed) => {
                    self.kept.push(frame.clone());
                    Some(computed)
                }
                None if follows(stored) && frame.salts() == self.header.salts => {
                    // Its checksum is right, what it was made of is lost: it stands undamaged
                    // between its neighbours, or its successor would not fit it.
                    self.kept.push(frame.clone());
                    Some(stored)
                }
                _ => self.correct_or_drop(frames, index, before, follows(stored)),
            };
        }
    }

    /// Returns the checksum behind the frame as far as it is known.
    fn correct_or_drop(
        &mut self,
        frames: &[Frame],
        index: usize,
        before: Option<Sum>,
        stored_is_right: bool,
    ) -> Option<Sum> {
        let frame = &frames[index];
        let right = before.and_then(|before| correct(&self.header, before, frame, frames));
        let stored = frame.stored_sum();
        match right {
            Some(frame) => {
                self.mended.corrected += 1;
                self.kept.push(frame);
                Some(stored)
            }
            None => {
                self.mended.dropped += 1;
                self.end_without(frame);
                stored_is_right.then_some(stored)
            }
        }
    }

    /// Where the frame that is left out ended a transaction, the one before it does so now: the
    /// others of that transaction must not be lost with it.
    fn end_without(&mut self, dropped: &Frame) {
        let highest = self.kept.iter().map(Frame::page).max().unwrap_or(0);
        let ended = dropped.salts() == self.header.salts && dropped.commit_size() >= highest;
        if let (true, Some(last)) = (ended && dropped.commit_size() != 0, self.kept.last_mut())
            && last.commit_size() == 0
        {
            last.bytes[4..8].copy_from_slice(&dropped.commit_size().to_be_bytes());
        }
    }

    /// Writes the kept frames up to the last end of a transaction.
    fn finish(mut self) -> Mended {
        let Some(last) = self.kept.iter().rposition(|frame| frame.commit_size() != 0) else { return self.mended };
        let mut bytes = self.header.bytes;
        let header = self.header;
        write_sum(&mut bytes, 24, header.sum);
        let mut sum = header.sum;
        let out = &mut self.mended.bytes;
        out.extend_from_slice(&bytes);
        for frame in &mut self.kept[..=last] {
            frame.bytes[8..16].copy_from_slice(&header.salts);
            sum = header.sum_after(sum, frame);
            write_sum(&mut frame.bytes, 16, sum);
            out.extend_from_slice(&frame.bytes);
        }
        self.mended
    }
}

fn write_sum(bytes: &mut [u8], at: usize, sum: Sum) {
    bytes[at..at + 4].copy_from_slice(&sum.0.to_be_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&sum.1.to_be_bytes());
}

/// Finds the one byte whose change makes the frame fit its checksum; none if there is no such
/// byte or it is not certain which.
fn correct(header: &Header, before: Sum, frame: &Frame, others: &[Frame]) -> Option<Frame> {
    let hits = fitting_changes(header, before, frame);
    let (place, value) = match hits.as_slice() {
        [only] => *only,
        several => choose(several, frame, others)?,
    };
    let mut right = frame.clone();
    right.bytes[place] = value;
    Some(right)
}

/// Every change of one byte with which the frame fits.
///
/// The checksum is linear: a change of a word by `d` changes both halves by `d` times a factor
/// that depends only on the word's place. A wrong hit by chance is out of the question; but for
/// the highest byte of a word only the low bits of the factors count, and those recur.
fn fitting_changes(header: &Header, before: Sum, frame: &Frame) -> Vec<(usize, u8)> {
    let (found, wanted) = (header.sum_after(before, frame), frame.stored_sum());
    let off = Sum(wanted.0.wrapping_sub(found.0), wanted.1.wrapping_sub(found.1));
    let places: Vec<usize> = (0..8).step_by(4).chain((FRAME_HEADER..frame.bytes.len()).step_by(4)).collect();
    let mut factors = [Sum(1, 1), Sum(0, 1)];
    let mut hits = Vec::new();
    for pair in places.chunks(2).rev() {
        for (place, factor) in pair.iter().zip(factors) {
            for change in changes(&frame.bytes[*place..*place + 4], header.is_big_endian()) {
                if factor.0.wrapping_mul(change.by) == off.0 && factor.1.wrapping_mul(change.by) == off.1 {
                    hits.push((place + change.byte, change.value));
                }
            }
        }
        factors = factors
            .map(|Sum(first, second)| Sum(first.wrapping_add(second), first.wrapping_add(second.wrapping_mul(2))));
    }
    hits
}

/// Asks the other copies of the same page: the right change is the one that a copy bears out,
/// while it contradicts all the others.
fn choose(hits: &[(usize, u8)], frame: &Frame, others: &[Frame]) -> Option<(usize, u8)> {
    let copies = others.iter().filter(|other| other.bytes[..4] == frame.bytes[..4] && other.bytes != frame.bytes);
    let mut witnesses = copies.filter_map(|copy| {
        let mut borne_out = hits.iter().filter(|(place, value)| copy.bytes[*place] == *value);
        let hit = borne_out.next()?;
        let rest = hits.iter().filter(|other| *other != hit);
        let alone = rest.map(|(place, _)| *place).all(|place| copy.bytes[place] == frame.bytes[place]);
        alone.then_some(*hit)
    });
    let first = witnesses.next()?;
    witnesses.all(|hit| hit == first).then_some(first)
}

/// Another value for one byte of a word, and by how much it changes the word.
struct Change {
    byte: usize,
    value: u8,
    by: u32,
}

fn changes(word: &[u8], big_endian: bool) -> impl Iterator<Item = Change> {
    word.iter().enumerate().flat_map(move |(byte, old)| {
        let shift = if big_endian { 24 - 8 * byte } else { 8 * byte };
        (0..=u8::MAX).filter(move |value| value != old).map(move |value| {
            let by = u32::from(value).wrapping_sub(u32::from(*old)) << shift;
            Change { byte, value, by }
        })
    })
}
