//! Looking through SQLite's write-ahead log before SQLite does.
//!
//! Each frame of the log carries a checksum over everything before it. When a frame does not
//! fit, SQLite takes it for the torn end of the last write, drops it *and all that follows*, and
//! says nothing. Mostly that is right; after damage in the middle it silently loses commits.
//!
//! What tells the two apart: a commit is flushed before the next one writes its first frame. So
//! the one transaction that may be torn is the last, and nothing of the same generation (the
//! same *salts*) can stand behind its end. Where a frame of this generation stands behind the end
//! of a transaction that does not fit, that transaction had been made durable: this is damage.
//! - `kill -9` never tears what was flushed: the system keeps what was written.
//! - A power cut may leave any part of the last, unflushed transaction, in any order; its last
//!   frame may be there while an earlier one is not. Nothing stands behind that last frame.
//! - Frames of earlier generations have other salts. What a failed commit or a crash left in this
//!   generation is cleared away when the store is opened (a new generation begins), or is
//!   announced by the commit mark.
//!
//! Damage in the very last transaction looks like a torn one; the commit mark tells those apart.
//! Nothing here writes.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

const HEADER: usize = 32;
pub(crate) const FRAME_HEADER: usize = 24;
const MAGIC_LITTLE: u32 = 0x377f_0682;
const MAGIC_BIG: u32 = 0x377f_0683;
const WAL_FORMAT: u32 = 3_007_000;
/// The size of a page unless a file says otherwise.
pub(crate) const USUAL_PAGE: usize = 4_096;

/// SQLite's running checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum(pub(crate) u32, pub(crate) u32);

/// The head of the file.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) bytes: [u8; HEADER],
    big_endian: bool,
    pub(crate) page_size: usize,
    pub(crate) salts: [u8; 8],
    /// The checksum of the header, on which those of the frames build.
    pub(crate) sum: Sum,
    /// Whether that checksum fits.
    pub(crate) whole: bool,
}

impl Header {
    /// Reads a header; none if these bytes are not one at all.
    pub(crate) fn parse(bytes: [u8; HEADER]) -> Option<Self> {
        let magic = word(&bytes, 0);
        let page_size = word(&bytes, 8) as usize;
        let known = (magic == MAGIC_LITTLE || magic == MAGIC_BIG)
            && page_size.is_power_of_two()
            && (512..=65_536).contains(&page_size);
        if !known {
            return None;
        }
        let big_endian = magic == MAGIC_BIG;
        let sum = add(big_endian, Sum::default(), &bytes[..24]);
        let salts = std::array::from_fn(|index| bytes[16 + index]);
        let whole = sum == Sum(word(&bytes, 24), word(&bytes, 28));
        Some(Self { bytes, big_endian, page_size, salts, sum, whole })
    }

    /// A header for a log whose own is lost.
    pub(crate) fn anew(big_endian: bool, page_size: usize, salts: [u8; 8]) -> Option<Self> {
        let mut bytes = [0; HEADER];
        let magic = if big_endian { MAGIC_BIG } else { MAGIC_LITTLE };
        bytes[0..4].copy_from_slice(&magic.to_be_bytes());
        bytes[4..8].copy_from_slice(&WAL_FORMAT.to_be_bytes());
        bytes[8..12].copy_from_slice(&u32::try_from(page_size).ok()?.to_be_bytes());
        bytes[16..24].copy_from_slice(&salts);
        Self::parse(bytes)
    }

    /// The checksum after a frame, given the one before it.
    pub(crate) fn sum_after(&self, before: Sum, frame: &Frame) -> Sum {
        add(self.big_endian, add(self.big_endian, before, &frame.bytes[..8]), &frame.bytes[FRAME_HEADER..])
    }

    pub(crate) fn is_big_endian(&self) -> bool {
        self.big_endian
    }
}

/// One page as a transaction left it.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
}

impl Frame {
    /// Which page it is.
    pub(crate) fn page(&self) -> u32 {
        word(&self.bytes, 0)
    }

    /// The size of the database in pages if this frame ends a transaction, else zero.
    pub(crate) fn commit_size(&self) -> u32 {
        word(&self.bytes, 4)
    }

    pub(crate) fn salts(&self) -> [u8; 8] {
        std::array::from_fn(|index| self.bytes[8 + index])
    }

    /// The checksum that stands in the frame.
    pub(crate) fn stored_sum(&self) -> Sum {
        Sum(word(&self.bytes, 16), word(&self.bytes, 20))
    }
}

/// Reads a log frame by frame.
pub(crate) struct Log {
    input: BufReader<File>,
    /// None if the head of the file is not one.
    pub(crate) header: Option<Header>,
}

impl Log {
    /// Opens a log. None if there is none, or nothing stands in it.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() <= HEADER as u64 {
            return Ok(None);
        }
        let mut input = BufReader::with_capacity(1 << 20, file);
        let mut bytes = [0; HEADER];
        input.read_exact(&mut bytes)?;
        Ok(Some(Self { input, header: Header::parse(bytes) }))
    }

    /// The next frame that is there in full.
    pub(crate) fn next_frame(&mut self, page_size: usize) -> io::Result<Option<Frame>> {
        let mut bytes = vec![0; FRAME_HEADER + page_size];
        match self.input.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(Frame { bytes })),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Where a log is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The place of the first thing that does not fit.
    pub(crate) offset: u64,
    /// How many frames of the same generation stand behind it.
    pub(crate) behind: u64,
}

/// Looks for durable commits behind something that does not fit.
pub(crate) fn find_damage(path: &Path) -> io::Result<Option<Damage>> {
    let Some(mut log) = Log::open(path)? else { return Ok(None) };
    let Some(header) = log.header.clone().filter(|header| header.whole) else {
        return broken_header(log);
    };
    let (mut sum, mut fits, mut damage) = (header.sum, true, Damage { offset: 0, behind: 0 });
    // Whether a transaction ended since the first misfit, and whether another began after that.
    let (mut ended, mut durable) = (false, false);
    let mut offset = HEADER as u64;
    while let Some(frame) = log.next_frame(header.page_size)? {
        let same = frame.salts() == header.salts;
        if fits {
            sum = header.sum_after(sum, &frame);
            fits = same && sum == frame.stored_sum();
            damage.offset = offset;
        } else if same {
            damage.behind += 1;
            durable |= ended;
        }
        ended |= !fits && same && frame.commit_size() != 0;
        offset += frame.bytes.len() as u64;
    }
    Ok(durable.then_some(damage))
}

/// A header that does not fit is damage if anything stands behind it: it lies within one sector,
/// is written as one, and is flushed before the first frame.
fn broken_header(mut log: Log) -> io::Result<Option<Damage>> {
    let mut damage = Damage { offset: 0, behind: 0 };
    while let Some(frame) = log.next_frame(USUAL_PAGE)? {
        damage.behind += u64::from(frame.bytes.iter().any(|byte| *byte != 0));
    }
    Ok((damage.behind > 0).then_some(damage))
}

/// Adds bytes to a checksum, eight at a time.
fn add(big_endian: bool, Sum(mut first, mut second): Sum, bytes: &[u8]) -> Sum {
    for pair in bytes.as_chunks::<8>().0 {
        let [one, other] = halves(big_endian, pair);
        first = first.wrapping_add(one).wrapping_add(second);
        second = second.wrapping_add(other).wrapping_add(first);
    }
    Sum(first, second)
}

fn halves(big_endian: bool, pair: &[u8; 8]) -> [u32; 2] {
    let (one, other) = ([pair[0], pair[1], pair[2], pair[3]], [pair[4], pair[5], pair[6], pair[7]]);
    if big_endian {
        [u32::from_be_bytes(one), u32::from_be_bytes(other)]
    } else {
        [u32::from_le_bytes(one), u32::from_le_bytes(other)]
    }
}

/// A number as the fields of the log hold it.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|index| bytes[at + index]))
}
