//! Inference for another process over a pair of pipes: one model, many requests.
//!
//! `formats/serve.md` specifies the protocol. A request is a length and that many bytes of samples;
//! a reply is a status, a length and that many bytes of outputs, or of a message. A bad request is
//! answered and does not end anything.

use std::io::{self, Read, Write};

use crate::data;
use crate::engine::{Engine, Workspace};
use crate::error::{Error, Result};
use crate::network::Shape;

/// The version that the greeting names.
pub const PROTOCOL: u32 = 1;

/// Most bytes of a request's samples; longer requests are refused, their bytes skipped.
pub const MOST_BYTES: usize = 1 << 26;

/// Most bytes of a reply's outputs, as its header can tell; requests for more are refused.
pub const MOST_REPLY_BYTES: u64 = u32::MAX as u64 - 3;

/// Samples for which memory is kept.
const BATCH: usize = 64;

/// Outputs that are computed before they are sent, or those of one sample if they are more.
const PIECE: usize = 1 << 22;

const DONE: u32 = 0;
const REFUSED: u32 = 1;

/// What answers requests: rows of outputs for samples.
trait Served {
    /// Of a sample and of its row.
    fn shapes(&self) -> [Shape; 2];

    /// Refuses samples of finite numbers that are none of the network's.
    fn check(&self, samples: &[f32]) -> Result<()>;

    /// Runs whole samples.
    fn run(&mut self, samples: &[f32], outputs: &mut [f32]) -> Result<()>;
}

/// Greets, then answers every request from `input` on `output`, in order, until `input` ends between
/// two requests or nobody reads `output` any more. Requests share the engine's threads.
///
/// # Errors
/// [`Error::Data`] if the input ends inside a request, [`Error::Io`] if it cannot be read or the
/// output cannot be written.
pub fn serve(engine: &Engine, input: &mut dyn Read, output: &mut dyn Write) -> Result<()> {
    let outs = engine.output_shape().elements()?;
    let workspace = engine.workspace(BATCH.min(PIECE / outs.max(1)).max(1));
    serve_with(Plain { engine, workspace }, input, output)
}

/// An engine and its memory.
struct Plain<'a> {
    engine: &'a Engine,
    workspace: Workspace,
}

impl Served for Plain<'_> {
    fn shapes(&self) -> [Shape; 2] {
        [self.engine.input_shape(), self.engine.output_shape()]
    }

    fn check(&self, samples: &[f32]) -> Result<()> {
        self.engine.check_input(samples)
    }

    fn run(&mut self, samples: &[f32], outputs: &mut [f32]) -> Result<()> {
        self.engine.run(&mut self.workspace, samples, outputs)
    }
}

/// The same with predictions under the posterior, drawn by a seed: a row is that of
/// [`Task::row`](crate::uncertainty::Task::row).
///
/// # Errors
/// As [`serve`].
#[cfg(feature = "uncertainty")]
pub fn serve_predictions(
    engine: &crate::engine::uncertain::UncertainEngine,
    task: crate::uncertainty::Task,
    seed: u64,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<()> {
    serve_with(Posterior { engine, task, seed }, input, output)
}

#[cfg(feature = "uncertainty")]
struct Posterior<'a> {
    engine: &'a crate::engine::uncertain::UncertainEngine,
    task: crate::uncertainty::Task,
    seed: u64,
}

#[cfg(feature = "uncertainty")]
impl Served for Posterior<'_> {
    fn shapes(&self) -> [Shape; 2] {
        [self.engine.input_shape(), Shape::vector(self.task.row(self.engine.outputs()))]
    }

    fn check(&self, samples: &[f32]) -> Result<()> {
        self.engine.check_input(samples)
    }

    fn run(&mut self, samples: &[f32], outputs: &mut [f32]) -> Result<()> {
        self.engine.predict_into(samples, self.task, self.seed, outputs)
    }
}

fn serve_with(served: impl Served, input: &mut dyn Read, output: &mut dyn Write) -> Result<()> {
    let [ins, outs] = served.shapes();
    let shapes = [ins, outs].into_iter().flat_map(|s| [s.channels, s.height, s.width]);
    let mut greeting = PROTOCOL.to_le_bytes().to_vec();
    for size in shapes {
        let size = u32::try_from(size).map_err(|_| Error::data("a shape beyond 32 bits"))?;
        greeting.extend(size.to_le_bytes());
    }
    let (ins, outs) = (ins.elements()?, outs.elements()?);
    let mut server = Server {
        served,
        ins,
        outs,
        request: Vec::new(),
        samples: Vec::new(),
        outputs: Vec::new(),
        reply: Vec::new(),
    };
    put_reply(&mut server.reply, DONE, &greeting);
    let ended = server.send(output).and_then(|()| server.answer_all(input, output));
    match ended {
        // Nobody reads any more.
        Err(Error::Io { cause, .. }) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    }
}

/// What answers with the memory that requests share.
struct Server<S> {
    served: S,
    ins: usize,
    outs: usize,
    request: Vec<u8>,
    samples: Vec<f32>,
    outputs: Vec<f32>,
    reply: Vec<u8>,
}

impl<S: Served> Server<S> {
    fn answer_all(&mut self, input: &mut dyn Read, output: &mut dyn Write) -> Result<()> {
        while let Some(length) = next_length(input)? {
            match self.read(input, length)? {
                Ok(()) => self.answer(output)?,
                Err(problem) => {
                    put_reply(&mut self.reply, REFUSED, problem.as_bytes());
                    self.send(output)?;
                }
            }
        }
        Ok(())
    }

    /// Runs the request piece by piece: memory does not grow with the reply.
    fn answer(&mut self, output: &mut dyn Write) -> Result<()> {
        let values = self.request.as_chunks().0;
        self.samples.clear();
        self.samples.extend(values.iter().map(|&b| f32::from_le_bytes(b)));
        let count = self.samples.len() / self.ins.max(1);
        let piece = (PIECE / self.outs.max(1)).max(1);
        // Nothing of a reply is sent before all of the request is known to be good.
        let mut refused = data::finite("element", &self.samples, self.ins)
            .and_then(|()| self.served.check(&self.samples))
            .err();
        put_header(&mut self.reply, DONE, 4 * (count * self.outs) as u32);
        for first in (0..count).step_by(piece) {
            if refused.is_none() {
                match self.run(first..(first + piece).min(count)) {
                    Err(e) if first == 0 => refused = Some(e),
                    done => done?,
                }
            }
            if let Some(e) = &refused {
                self.reply.clear();
                put_reply(&mut self.reply, REFUSED, e.line().as_bytes());
                break;
            }
            self.reply.extend(self.outputs.iter().flat_map(|v| v.to_le_bytes()));
            if first + piece < count {
                self.send(output)?;
            }
        }
        self.send(output)
    }

    /// Sends what is to be replied.
    fn send(&mut self, output: &mut dyn Write) -> Result<()> {
        let sent = output.write_all(&self.reply).and_then(|()| output.flush());
        self.reply.clear();
        sent.map_err(|cause| failed("standard output", cause))
    }

    /// Reads a request of this length, or skips it and says why.
    fn read(
        &mut self,
        input: &mut dyn Read,
        length: usize,
    ) -> Result<std::result::Result<(), String>> {
        let sample = 4 * self.ins;
        let problem = if length > MOST_BYTES {
            format!(
                "a request of {length} bytes, at most {MOST_BYTES} are taken: send fewer samples"
            )
        } else if !length.is_multiple_of(sample.max(1)) {
            format!(
                "{length} bytes of f32, expected a multiple of {sample} for samples of shape {}",
                self.served.shapes()[0]
            )
        } else if (length / sample.max(1)) as u64 * 4 * self.outs as u64 > MOST_REPLY_BYTES {
            format!(
                "{} samples have more than {MOST_REPLY_BYTES} bytes of outputs: send fewer",
                length / sample.max(1)
            )
        } else {
            self.request.clear();
            take(input, length, |bytes| self.request.extend_from_slice(bytes))?;
            return Ok(Ok(()));
        };
        take(input, length, |_| ())?;
        Ok(Err(problem))
    }

    /// Runs these samples of the request.
    fn run(&mut self, samples: std::ops::Range<usize>) -> Result<()> {
        let input = &self.samples[samples.start * self.ins..samples.end * self.ins];
        self.outputs.clear();
        self.outputs.resize(samples.len() * self.outs, 0.0);
        self.served.run(input, &mut self.outputs)?;
        data::finite_from(samples.start, "output", &self.outputs, self.outs)
    }
}

fn put_header(reply: &mut Vec<u8>, status: u32, length: u32) {
    reply.extend(status.to_le_bytes());
    reply.extend(length.to_le_bytes());
}

/// A body of a few bytes.
fn put_reply(reply: &mut Vec<u8>, status: u32, body: &[u8]) {
    put_header(reply, status, body.len() as u32);
    reply.extend_from_slice(body);
}

/// The length of the next request; nothing if the input has ended.
fn next_length(input: &mut dyn Read) -> Result<Option<usize>> {
    let mut bytes = [0; 4];
    let mut filled = 0;
    while filled < bytes.len() {
        match input.read(&mut bytes[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(ended()),
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed("standard input", e)),
        }
    }
    Ok(Some(u32::from_le_bytes(bytes) as usize))
}

/// Gives the next `length` bytes to `each` in pieces, so that memory grows with what has come.
fn take(input: &mut dyn Read, mut length: usize, mut each: impl FnMut(&[u8])) -> Result<()> {
    let mut piece = [0; 1 << 14];
    while length > 0 {
        let wanted = length.min(piece.len());
        match input.read(&mut piece[..wanted]) {
            Ok(0) => return Err(ended()),
            Ok(count) => {
                each(&piece[..count]);
                length -= count;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed("standard input", e)),
        }
    }
    Ok(())
}

fn ended() -> Error {
    Error::data("standard input ended in the middle of a request")
}

fn failed(what: &str, cause: io::Error) -> Error {
    Error::Io { path: what.into(), cause }
}
