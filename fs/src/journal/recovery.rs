//! Finds the intact end of the journal when it is opened.
//!
//! Live files, ordered by generation, must form one run of batches. From the file that holds the checkpoint on, every batch is looked at until the
//! expected one is not there: the *hole*. What lies behind it decides:
//!
//! - an intact batch, file header or mark behind the hole (or the checkpoint) says that the missing batch was durable → damage, reported,
//!   nothing is changed;
//! - otherwise the batch was never durable: the process died while writing it, or a power loss kept later writes and lost
//!   this one. The journal is cut there, and what lies behind is wiped, durably, before anything is appended: else a new
//!   batch of the same length would bring the old ones behind it back to life.
//!
//! Every step may be interrupted and is then done again: nothing is put into the hole before all behind it is gone, so the next
//! recovery finds the same hole.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::ids::{Lane, Seq};

use super::JournalOptions;
use super::error::JournalError;
use super::file::{JournalFile, LiveFile, list, sync_dir};
use super::footer::{Point, Points};
use super::format::{ALIGN_BYTES, BATCHES_AT, BadHeader, FILE_HEADER_BYTES, FileHeader, FileState};
use super::lsn::{Heads, Lsn};
use super::recent::Recent;
use super::recovered::{Cut, Recovered};
use super::scan::{FileScan, sweep};
use super::upkeep::SPARE_FILES;
use super::writer::{Active, Sealed, Writer};

/// What recovery found.
pub struct Found {
    /// Ready to append.
    pub writer: Writer,
    /// The own lanes' heads at the checkpoint.
    pub checkpoint_heads: Heads,
    /// What was appended after the checkpoint.
    pub recovered: Recovered,
}

/// The files of a journal.
struct Files {
    live: Vec<Arc<LiveFile>>,
    spare: Vec<Arc<JournalFile>>,
    /// Made at once for an append, and lost with it.
    unused: Vec<Arc<JournalFile>>,
    generation: u64,
    number: u64,
}

/// Where the run of intact batches ends.
struct End {
    /// Index of the file.
    file: usize,
    offset: u64,
    /// The first batch that is not there.
    lsn: Lsn,
    heads: Heads,
    checkpoint_heads: Heads,
    /// Of the last file.
    points: Points,
}

/// Opens the journal's files and cuts its torn end.
pub fn recover(dir: &Path, options: &JournalOptions, checkpoint: Lsn) -> Result<Found, JournalError> {
    let mut files = load(dir, options)?;
    let start = check_run(dir, &files.live, checkpoint)?;
    let end = find_end(&files.live, start, checkpoint)?;
    let hole = files.live[end.file].clone();
    let behind: Vec<_> = files.live.drain(end.file + 1..).collect();
    let (torn_end, durable) = search_behind(&hole, end.offset, &behind)?;
    if end.lsn <= checkpoint.max(durable) {
        let file = hole.on_disk.path.clone();
        return Err(JournalError::Damaged { file, offset: end.offset, lsn: end.lsn });
    }
    let mut cut = None;
    if torn_end.is_some() || !behind.is_empty() {
        cut = Some(cut_end(&hole, &end, torn_end, &behind)?);
        files.spare.extend(behind.into_iter().map(|file| file.on_disk.clone()));
    }
    let last_lsn = end.lsn.previous();
    let recovered = Recovered::new(files.live[start..].to_vec(), checkpoint, last_lsn, cut);
    files.unused.iter().try_for_each(|file| file.remove())?;
    let ready = keep_spare(files.spare, options)?;
    sync_dir(dir)?;
    let mut sealed = VecDeque::new();
    for pair in files.live.windows(2) {
        let next = &pair[1].header;
        sealed.push_back(Sealed { live: pair[0].clone(), last_lsn: next.first_lsn.previous(), end: next.heads });
    }
    let writer = Writer {
        sealed,
        active: Active { live: hole, tail: end.offset, points: end.points },
        appended: last_lsn,
        heads: end.heads,
        file_bytes: options.file_bytes,
        ready,
        // What the process wrote before it was killed may not have been flushed.
        dirty: files.live[start..end.file].iter().map(|file| file.on_disk.clone()).collect(),
        dir_dirty: true,
        recent: Recent::default(),
        next_generation: files.generation + 1,
        next_number: files.number + 1,
        checkpoint,
        watermarks: [Seq::ZERO; Lane::ALL.len()],
    };
    Ok(Found { writer, checkpoint_heads: end.checkpoint_heads, recovered })
}

/// Whether the directory has a file that is part of a journal. Removes what an interrupted creation left, if not.
pub fn is_journal(dir: &Path, options: &JournalOptions) -> Result<bool, JournalError> {
    let files = load(dir, options)?;
    if files.live.is_empty() {
        files.spare.iter().chain(&files.unused).try_for_each(|file| file.remove())?;
    }
    Ok(!files.live.is_empty())
}

fn load(dir: &Path, options: &JournalOptions) -> Result<Files, JournalError> {
    let listing = list(dir)?;
    for path in listing.temporary {
        std::fs::remove_file(&path).map_err(JournalError::io("remove", &path))?;
    }
    let mut files = Files { live: Vec::new(), spare: Vec::new(), unused: Vec::new(), generation: 0, number: 0 };
    for (number, path) in listing.files {
        files.number = files.number.max(number);
        let file = Arc::new(JournalFile::open(path)?);
        match read_header(&file, options.store_tag)? {
            None => files.unused.push(file),
            Some(header) => {
                files.generation = files.generation.max(header.generation);
                match header.state {
                    FileState::Spare => files.spare.push(file),
                    FileState::Live => files.live.push(Arc::new(LiveFile::new(file, header))),
                }
            }
        }
    }
    files.live.sort_by_key(|file| file.header.generation);
    Ok(files)
}

/// The file's header; `None` when the file was never used. Mends a copy that was lost.
fn read_header(file: &JournalFile, store_tag: u64) -> Result<Option<FileHeader>, JournalError> {
    let path = || file.path.clone();
    if file.file_bytes <= BATCHES_AT {
        return Ok(None);
    }
    let copies = file.read_headers()?;
    let mut best: Option<FileHeader> = None;
    let mut version = None;
    let mut differ = false;
    for copy in &copies {
        match FileHeader::decode(copy) {
            Ok(header) => {
                differ |= best.is_some_and(|best| best != header);
                // A live one wins: it is half a switch to a new use, or half a retirement that is done again.
                let rank = |header: &FileHeader| (header.state == FileState::Live, header.generation);
                best = best.filter(|best| rank(best) >= rank(&header)).or(Some(header));
            }
            Err(BadHeader::Version(found)) => version = Some(found),
            Err(BadHeader::Invalid) => differ = true,
        }
    }
    match (best, version) {
        (None, Some(version)) => Err(JournalError::Version { file: path(), version }),
        (None, None) if copies == [[0; FILE_HEADER_BYTES]; 2] => Ok(None),
        (None, None) => Err(JournalError::DamagedHeader { file: path() }),
        (Some(header), _) if header.store_tag != store_tag => Err(JournalError::Foreign { file: path() }),
        (Some(header), _) if header.file_bytes != file.file_bytes => Err(JournalError::DamagedHeader { file: path() }),
        (Some(header), _) => {
            if differ {
                file.write_header(&header)?;
                file.sync()?;
            }
            Ok(Some(header))
        }
    }
}

/// The files up to the one that holds the checkpoint must follow each other. Returns that one's index.
fn check_run(dir: &Path, live: &[Arc<LiveFile>], checkpoint: Lsn) -> Result<usize, JournalError> {
    let missing = |file: &LiveFile, lsn| JournalError::Damaged { file: file.on_disk.path.clone(), offset: 0, lsn };
    let Some(oldest) = live.first() else { return Err(JournalError::Absent { dir: dir.to_owned() }) };
    let Some(start) = live.iter().rposition(|file| file.header.first_lsn <= checkpoint.next()) else {
        return Err(missing(oldest, checkpoint.next()));
    };
    for pair in live[..=start].windows(2) {
        if pair[1].header.previous != pair[0].header.generation {
            return Err(missing(&pair[1], pair[1].header.first_lsn.previous()));
        }
    }
    Ok(start)
}

fn find_end(live: &[Arc<LiveFile>], start: usize, checkpoint: Lsn) -> Result<End, JournalError> {
    let mut heads = live[start].header.heads;
    let mut checkpoint_heads = heads;
    let mut file = start;
    loop {
        let next = live.get(file + 1).map(|next| next.header);
        let mut points = Points::default();
        let mut scan = FileScan::new(live[file].clone(), u64::MAX);
        while next.is_none_or(|next| scan.lsn() < next.first_lsn) {
            let Some(header) = scan.peek()? else { break };
            // Bodies up to the checkpoint are checked when somebody reads them.
            if header.lsn > checkpoint && (scan.state(&header)?.is_none() || scan.records(&header)?.is_none()) {
                break;
            }
            points.note(Point { offset: scan.offset(), lsn: header.lsn, heads });
            header.advance(&mut heads);
            if header.lsn <= checkpoint {
                checkpoint_heads = heads;
            }
            scan.skip(&header);
        }
        let follows = next.is_some_and(|next| {
            next.first_lsn == scan.lsn() && next.previous == live[file].header.generation && next.heads == heads
        });
        if !follows {
            return Ok(End { file, offset: scan.offset(), lsn: scan.lsn(), heads, checkpoint_heads, points });
        }
        file += 1;
    }
}

/// Looks behind the hole: where the last intact header's batch ends in the hole's file, and the last batch that anything says was durable.
fn search_behind(hole: &LiveFile, offset: u64, behind: &[Arc<LiveFile>]) -> Result<(Option<u64>, Lsn), JournalError> {
    let mut torn_end = None;
    let mut durable = hole.header.durable_lsn.max(hole.read_mark()?.unwrap_or_default());
    sweep(hole, offset, |at, header| {
        torn_end = torn_end.max(Some((at + header.total_bytes()).min(hole.batches_end())));
        durable = durable.max(header.durable_lsn);
    })?;
    for file in behind {
        durable = durable.max(file.header.durable_lsn).max(file.read_mark()?.unwrap_or_default());
        sweep(file, BATCHES_AT, |_, header| durable = durable.max(header.durable_lsn))?;
    }
    Ok((torn_end, durable))
}

/// Gives up what lies behind the hole, durably.
fn cut_end(hole: &LiveFile, end: &End, torn_end: Option<u64>, behind: &[Arc<LiveFile>]) -> Result<Cut, JournalError> {
    for file in behind {
        file.on_disk.retire(file.header.store_tag, file.header.generation)?;
    }
    let torn_end = torn_end.unwrap_or(end.offset);
    hole.on_disk.wipe(end.offset, torn_end)?;
    // The footer, if the file was full.
    hole.on_disk.wipe(hole.batches_end(), hole.batches_end() + ALIGN_BYTES)?;
    hole.on_disk.sync()?;
    let file: PathBuf = hole.on_disk.path.clone();
    let cut = Cut { file, offset: end.offset, lsn: end.lsn, bytes: torn_end - end.offset, files: behind.len() };
    tracing::warn!(
        file = %cut.file.display(), offset = cut.offset, lsn = %cut.lsn, bytes = cut.bytes, files = cut.files,
        "the journal's end was torn and is cut; nothing in it was durable"
    );
    Ok(cut)
}

/// Keeps a few spare files of the right size and deletes the others.
fn keep_spare(spare: Vec<Arc<JournalFile>>, options: &JournalOptions) -> Result<Vec<Arc<JournalFile>>, JournalError> {
    let mut ready = Vec::new();
    for file in spare {
        if ready.len() < SPARE_FILES && file.file_bytes == options.file_bytes {
            ready.push(file);
        } else {
            file.remove()?;
        }
    }
    Ok(ready)
}
