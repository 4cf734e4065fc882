//! What a search has tried, in a file from which the same search goes on.
//!
//! A line of JSON says what the results belong to, each further one is a configuration with its result, added
//! as soon as there is one. Neither the goal nor the effort is among what they belong to: no result depends on
//! them, so another bound or more effort finds what earlier searches tried. Numbers are written so that they are
//! read as the same bits, and the search goes the same way.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Point, Setting};
use crate::error::{Error, IoContext, Result};
use crate::prune::PrunedModel;
use crate::quantize::RateDistortion;

/// Of the lines of a state.
const VERSION: u32 = 1;
/// Bytes of a line, at most: they have some hundreds.
const MOST_LINE: u64 = 4096;

/// What results belong to. Numbers in hexadecimal are checksums.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Origin {
    svdo_search: u32,
    program: String,
    instructions: String,
    networks: String,
    samples: String,
    calibration: Option<String>,
    simplify: bool,
    strip: bool,
    fast: bool,
}

impl Origin {
    fn of(
        pruned: &[(f32, PrunedModel)],
        setting: &Setting<'_>,
        calibrate: Option<&[f32]>,
    ) -> Result<Self> {
        let mut networks = Checksum::new();
        for (threshold, pruned) in pruned {
            networks.floats(&[*threshold]);
            networks.network(pruned)?;
        }
        let mut samples = Checksum::new();
        samples.floats(setting.samples.values);
        if let Some(labels) = setting.samples.labels {
            samples.list(labels, |&label| u64::from(label));
        }
        let settings = setting.settings;
        Ok(Self {
            svdo_search: VERSION,
            program: env!("CARGO_PKG_VERSION").into(),
            instructions: setting.isa.name().into(),
            networks: networks.hex(),
            samples: samples.hex(),
            calibration: calibrate.map(|values| {
                let mut calibration = Checksum::new();
                calibration.floats(values);
                calibration.hex()
            }),
            simplify: settings.simplify,
            strip: settings.strip,
            fast: settings.fast,
        })
    }

    /// In what the results of another differ, in the user's words.
    fn differs(&self, other: &Self) -> Option<String> {
        let words = |what: &str, theirs: &str, ours: &str| {
            Some(format!("its {what} is {theirs}, this one's is {ours}"))
        };
        let another = |what: &str| Some(format!("it had {what}"));
        if self.program != other.program {
            return words("version of svdo", &other.program, &self.program);
        }
        if self.instructions != other.instructions {
            return words("instruction set", &other.instructions, &self.instructions);
        }
        if self.networks != other.networks {
            return another("another checkpoint, network, --thresh or --recalibrate");
        }
        if self.samples != other.samples {
            return another("other samples or labels to measure on");
        }
        if self.calibration != other.calibration {
            return another("other samples for --calibrate");
        }
        (self != other).then(|| "it had other of --no-simplify, --strip and --fast".into())
    }
}

/// A file of what was tried, held by one search at a time.
#[derive(Debug)]
pub(in super::super) struct State {
    path: PathBuf,
    /// What the file holds: what was found in it, and what was added.
    points: Mutex<(File, Vec<Point>)>,
    found: usize,
}

impl State {
    /// Opens the state of a search, or begins one where there is no file or an empty one. What a crash has cut
    /// of its last line is dropped.
    ///
    /// # Errors
    /// [`Error::InFile`] if the file is no state, or that of another search; [`Error::Io`].
    pub(in super::super) fn open(
        path: &Path,
        pruned: &[(f32, PrunedModel)],
        setting: &Setting<'_>,
        calibrate: Option<&[f32]>,
    ) -> Result<Self> {
        let origin = Origin::of(pruned, setting, calibrate)?;
        let mut file = open(path).at(path)?;
        let (whole, points) = read(&mut file, &origin).map_err(|problem| match problem {
            Problem::Io(cause) => Error::Io { path: path.into(), cause },
            Problem::Words(problem) => Error::Argument { problem }.in_file(path),
        })?;
        let mut begin = || {
            file.set_len(whole)?;
            file.seek(io::SeekFrom::Start(whole))?;
            if whole == 0 { add(&mut file, &origin) } else { Ok(()) }
        };
        begin().at(path)?;
        let found = points.len();
        Ok(Self { path: path.into(), points: Mutex::new((file, points)), found })
    }

    /// How many results the file had when it was opened.
    pub(super) fn found(&self) -> usize {
        self.found
    }

    /// The first result of the file.
    pub(super) fn first(&self) -> Option<Point> {
        let held = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        held.1.first().copied()
    }

    /// The result of a configuration, if it was tried.
    pub(super) fn find(&self, threshold: f32, settings: &RateDistortion) -> Option<Point> {
        let held = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |p: &&Point| p.threshold == threshold && p.settings == *settings;
        held.1.iter().find(same).copied()
    }

    /// Keeps a result, on the disk, before this returns.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn add(&self, point: &Point) -> Result<()> {
        let mut held = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, points) = &mut *held;
        add(file, point).at(&self.path)?;
        points.push(*point);
        Ok(())
    }

    /// What to say where the file's first result is not what comes of its configuration.
    pub(super) fn refuse(&self, problem: &str) -> Error {
        Error::Argument { problem: format!("{problem}: name another file, or remove this one") }
            .in_file(&self.path)
    }
}

/// Opens or makes the file, and holds it for this process.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("a search keeps its state in a regular file"));
    }
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::Error::other("another search has this state")),
        // Some systems have no locks.
        Err(TryLockError::Error(_)) | Ok(()) => Ok(file),
    }
}

fn add(file: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()
}

enum Problem {
    Io(io::Error),
    Words(String),
}

impl From<io::Error> for Problem {
    fn from(cause: io::Error) -> Self {
        Self::Io(cause)
    }
}

/// The bytes of all whole lines, and the results in them; 0 bytes if the file is to be begun.
fn read(
    file: &mut (impl Read + ?Sized),
    origin: &Origin,
) -> std::result::Result<(u64, Vec<Point>), Problem> {
    let no_state = || Problem::Words("this is no state of a search: name another file".into());
    let mut file = BufReader::new(file);
    let (mut whole, mut points) = (0, Vec::new());
    for number in 1.. {
        let mut line = Vec::new();
        let read = (&mut file).take(MOST_LINE).read_until(b'\n', &mut line)? as u64;
        if line.pop_if(|last| *last == b'\n').is_none() {
            // Cut, if it is the last; what is not ours stays as it is.
            let begun = serde_json::to_vec(origin).map_err(io::Error::from)?;
            return match (number, read) {
                (1, _) if !begun.starts_with(&line) => Err(no_state()),
                (_, MOST_LINE) => Err(Problem::Words(format!(
                    "line {number} is longer than {MOST_LINE} bytes: remove it"
                ))),
                _ => Ok((whole, points)),
            };
        }
        whole += read;
        if number == 1 {
            let found: Origin = serde_json::from_slice(&line).map_err(|_| no_state())?;
            if found.svdo_search != VERSION {
                return Err(Problem::Words(format!(
                    "a state of version {}, this program knows {VERSION}: name another file",
                    found.svdo_search
                )));
            }
            if let Some(what) = origin.differs(&found) {
                return Err(Problem::Words(format!(
                    "the state of another search: {what}; name another file"
                )));
            }
            continue;
        }
        let point: Point = serde_json::from_slice(&line)
            .map_err(|e| Problem::Words(format!("line {number}: {e}: remove it")))?;
        if !point.is_consistent() {
            let problem = format!("line {number}: more errors than samples: remove it");
            return Err(Problem::Words(problem));
        }
        points.push(point);
    }
    Ok((whole, points))
}

static CRC: crc::Crc<u64, crc::Table<16>> = crc::Crc::<u64, crc::Table<16>>::new(&crc::CRC_64_XZ);

/// A checksum of what a search is given.
struct Checksum(crc::Digest<'static, u64, crc::Table<16>>);

impl Checksum {
    fn new() -> Self {
        Self(CRC.digest())
    }

    fn hex(self) -> String {
        format!("{:016x}", self.0.finalize())
    }

    /// A list with its length, so that none runs into the next.
    fn list<T>(&mut self, list: &[T], bits: impl Fn(&T) -> u64) {
        self.0.update(&(list.len() as u64).to_le_bytes());
        for chunk in list.chunks(1024) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|v| bits(v).to_le_bytes()).collect();
            self.0.update(&bytes);
        }
    }

    fn floats(&mut self, list: &[f32]) {
        self.list(list, |v| u64::from(v.to_bits()));
    }

    /// A network with the weights that are kept and what is known of them.
    fn network(&mut self, pruned: &PrunedModel) -> Result<()> {
        let network = pruned.network();
        // What is not in its layers; a float is written so that it can be told from any other.
        let _ = write!(self, "{network:?}");
        for index in 0..network.layers.len() {
            let layer = pruned.layer(index)?;
            let of_row = layer.weights.outer_iterator().map(|row| row.nnz()).collect::<Vec<_>>();
            self.list(&of_row, |&n| n as u64);
            self.list(layer.weights.indices(), |&column| u64::from(column));
            self.floats(layer.weights.data());
            self.floats(layer.log_sigma2.as_deref().unwrap_or_default());
            self.floats(layer.bias.as_deref().unwrap_or_default());
        }
        Ok(())
    }
}

impl fmt::Write for Checksum {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Change;
    use crate::engine::evaluate::Evaluation;

    fn origin() -> Origin {
        Origin {
            svdo_search: VERSION,
            program: "1.2.3".into(),
            instructions: "portable".into(),
            networks: "00".into(),
            samples: "01".into(),
            calibration: None,
            simplify: true,
            strip: false,
            fast: false,
        }
    }

    fn point(step: f64) -> Point {
        let evaluation = Evaluation {
            samples: 300,
            errors: 7,
            cross_entropy: 0.1 + step / 3.0,
            cross_entropy_se: f64::MIN_POSITIVE,
        };
        let change = Change {
            output_error: 1.0 / 3.0,
            divergence: 5e-324,
            errors: Some((3, 1)),
            evaluation: Some(evaluation),
        };
        let settings = RateDistortion { step, lambda: 0.1, ..RateDistortion::SMALL };
        Point { threshold: -0.1, settings, bytes: u64::MAX, change }
    }

    fn text(lines: &[&dyn erased::Line]) -> Vec<u8> {
        lines.iter().flat_map(|line| [line.json(), vec![b'\n']].concat()).collect()
    }

    mod erased {
        pub(super) trait Line {
            fn json(&self) -> Vec<u8>;
        }
        impl<T: serde::Serialize> Line for T {
            fn json(&self) -> Vec<u8> {
                serde_json::to_vec(self).unwrap()
            }
        }
    }

    fn words(bytes: &[u8]) -> String {
        match read(&mut &*bytes, &origin()) {
            Err(Problem::Words(words)) => words,
            Err(Problem::Io(e)) => panic!("{e}"),
            Ok((whole, points)) => panic!("{whole} {points:?}"),
        }
    }

    #[test]
    fn results_are_read_as_the_same_bits_and_a_cut_line_is_dropped() {
        let points = [point(0.35), point(0.1 + 0.2), point(0.0)];
        let bytes = text(&[&origin(), &points[0], &points[1], &points[2]]);
        let ends: Vec<usize> = (0..bytes.len()).filter(|&i| bytes[i] == b'\n').collect();
        for cut in 0..=bytes.len() {
            let Ok((whole, found)) = read(&mut &bytes[..cut], &origin()) else { panic!("{cut}") };
            let lines = ends.iter().filter(|&&end| end < cut).count();
            assert_eq!(found, points[..lines.saturating_sub(1)], "{cut}");
            assert_eq!(whole as usize, lines.checked_sub(1).map_or(0, |last| ends[last] + 1));
        }
    }

    #[test]
    fn what_is_no_state_or_another_ones_is_refused_with_words() {
        for bytes in [&b"import numpy\n"[..], b"x", b"{}\n", &[0; 5000], b"\n"] {
            assert!(words(bytes).contains("no state of a search"), "{bytes:?}");
        }
        let others = [
            (Origin { program: "1.2.4".into(), ..origin() }, "version of svdo is 1.2.4, this"),
            (Origin { instructions: "neon".into(), ..origin() }, "instruction set is neon"),
            (Origin { networks: "02".into(), ..origin() }, "another checkpoint"),
            (Origin { samples: "02".into(), ..origin() }, "other samples or labels"),
            (Origin { calibration: Some("01".into()), ..origin() }, "--calibrate"),
            (Origin { strip: true, ..origin() }, "--strip"),
            (Origin { svdo_search: 2, ..origin() }, "a state of version 2"),
        ];
        for (other, expected) in &others {
            let found = words(&text(&[other, &point(1.0)]));
            assert!(found.contains(expected), "{found}");
        }
        let long = [text(&[&origin()]), vec![b' '; 5000]].concat();
        assert!(words(&long).starts_with("line 2 is longer"), "{}", words(&long));
        let mut many = point(1.0);
        many.change.errors = Some((usize::MAX, 2));
        let found = words(&text(&[&origin(), &point(2.0), &many]));
        assert!(found.starts_with("line 3: more errors"), "{found}");
        let bad = String::from_utf8(text(&[&origin(), &point(1.0)])).unwrap();
        for (from, to) in
            [("300", "-300"), ("5e-324", "1e999"), ("5e-324", "-1.0"), ("\"step\"", "\"stop\"")]
        {
            let found = words(bad.replace(from, to).as_bytes());
            assert!(found.starts_with("line 2: "), "{found}");
        }
    }

    #[test]
    fn lists_do_not_run_into_each_other() {
        let of = |lists: &[&[f32]]| {
            let mut sum = Checksum::new();
            lists.iter().for_each(|list| sum.floats(list));
            sum.hex()
        };
        assert_ne!(of(&[&[1.0], &[2.0]]), of(&[&[1.0, 2.0], &[]]));
        assert_ne!(of(&[&[0.0]]), of(&[&[-0.0]]));
        assert_eq!(of(&[&[1.0; 3000]]), of(&[&[1.0; 3000]]));
    }
}
