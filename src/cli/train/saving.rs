//! Checkpoint and state of a training on their way to the disk: nothing that was trained is lost to a
//! signal, a full disk or a damaged file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{Error, IoContext};
use crate::files;
use crate::text::printable;
use crate::train::checkpoint;
use crate::train::trainer::Trainer;

/// Attempts to write the result of a training, a quarter of an hour.
const ATTEMPTS: u32 = 60;
/// The longest wait between two attempts.
const WAIT: Duration = Duration::from_secs(15);

/// Whether a signal has asked for an end: Ctrl-C or SIGTERM, which end nothing by themselves.
pub(super) struct Signals(Arc<AtomicBool>);

impl Signals {
    pub(super) fn catch() -> anyhow::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&came)).context("signal handler")?;
        }
        Ok(Self(came))
    }

    pub(super) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The next one is to be another.
    fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The state that goes with a checkpoint.
pub(super) fn state_of(checkpoint: &Path) -> PathBuf {
    with_end(checkpoint, ".state")
}

/// The state before that one.
pub(super) fn previous_of(state: &Path) -> PathBuf {
    with_end(state, ".previous")
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A training as its state left it, or, if that is damaged or gone, the state before it.
pub(super) fn resume(state: &Path) -> anyhow::Result<Trainer> {
    let read = |path: &Path| -> crate::Result<Trainer> {
        checkpoint::resume(&std::fs::read(path).at(path)?).map_err(|e| e.in_file(path))
    };
    let failed = match read(state) {
        Ok(trainer) => return Ok(trainer),
        Err(failed) => failed,
    };
    let previous = previous_of(state);
    let Ok(trainer) = read(&previous) else { return Err(failed.into()) };
    note(&format!("{failed}; going on from {}", previous.display()));
    Ok(trainer)
}

/// Writes what is to be kept, at times and at the end.
pub(super) struct Saver<'a> {
    output: &'a Path,
    fallback: Option<&'a Path>,
    every: Duration,
    /// When the last state was written, and how long that took.
    last: (Instant, Duration),
    /// The checkpoint of the best epoch, as long as it could not be written.
    unwritten: Option<Vec<u8>>,
    warned: bool,
}

impl<'a> Saver<'a> {
    pub(super) fn new(output: &'a Path, fallback: Option<&'a Path>, every: Duration) -> Self {
        let last = (Instant::now(), Duration::ZERO);
        Self { output, fallback, every, last, unwritten: None, warned: false }
    }

    /// Whether it is time for a state. Unless every step is to have one, writing them takes no more than
    /// a twentieth of the time.
    pub(super) fn is_due(&self) -> bool {
        let (written, took) = self.last;
        self.every.is_zero() || written.elapsed() >= self.every.max(20 * took)
    }

    /// Writes on the way; `kept` says that the checkpoint is to be that of now. A failure ends nothing:
    /// it is told once, and what could not be written is written the next time.
    pub(super) fn save(&mut self, trainer: &mut Trainer, kept: bool) -> crate::Result<()> {
        let begun = Instant::now();
        self.keep(trainer, kept)?;
        let state = checkpoint::state(trainer)?;
        if let Err(failed) = self.write(self.output, &state)
            && !std::mem::replace(&mut self.warned, true)
        {
            note(&format!("{failed}; the training goes on and tries again"));
        }
        self.last = (Instant::now(), begun.elapsed());
        Ok(())
    }

    /// Writes at the end, and says where the checkpoint is. While that fails, it tries again until a
    /// signal comes, or turns to the other folder if there is one.
    pub(super) fn finish(
        mut self,
        trainer: &mut Trainer,
        kept: bool,
        signals: &Signals,
    ) -> crate::Result<PathBuf> {
        self.keep(trainer, kept)?;
        let state = checkpoint::state(trainer)?;
        let elsewhere =
            self.fallback.and_then(|folder| Some(folder.join(self.output.file_name()?)));
        signals.forget();
        let mut wait = Duration::from_secs(1);
        for attempt in 1.. {
            let failed = match self.write(self.output, &state) {
                Ok(()) => return Ok(self.output.into()),
                Err(failed) => failed,
            };
            if let Some(path) = &elsewhere {
                // All of it, so that checkpoint and state belong together.
                self.unwritten = self.unwritten.or_else(|| std::fs::read(self.output).ok());
                match self.write(path, &state) {
                    Ok(()) => {
                        note(&format!("{failed}; written to {} instead", path.display()));
                        return Ok(path.clone());
                    }
                    Err(other) => note(&other.to_string()),
                }
            }
            if attempt >= ATTEMPTS {
                return Err(failed);
            }
            if attempt == 1 {
                note(&format!(
                    "{failed}; the result is kept in memory: make space, and it is written \
                     (Ctrl-C gives it up)"
                ));
            }
            if is_interrupted(wait, signals) {
                return Err(failed);
            }
            wait = (2 * wait).min(WAIT);
        }
        Err(Error::Cancelled)
    }

    fn keep(&mut self, trainer: &Trainer, kept: bool) -> crate::Result<()> {
        if kept {
            self.unwritten = Some(checkpoint::checkpoint(trainer)?);
        }
        Ok(())
    }

    /// The checkpoint and then the state, which may rely on it.
    fn write(&mut self, output: &Path, state: &[u8]) -> crate::Result<()> {
        if let Some(bytes) = &self.unwritten {
            files::write(output, bytes)?;
            self.unwritten = None;
        }
        let path = state_of(output);
        files::write_keeping(&path, &previous_of(&path), state)
    }
}

/// Waits; `true` as soon as a signal comes.
fn is_interrupted(wait: Duration, signals: &Signals) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < wait {
        if signals.came() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// A line on standard error.
pub(super) fn note(text: &str) {
    eprintln!("note: {}", printable(text));
}
