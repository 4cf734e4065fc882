//! Inference for another process over a pair of pipes: one model, many requests.
//!
//! `formats/serve.md` specifies the protocol. A request is a length and that many bytes of samples;
//! a reply is a status, a length and that many bytes of outputs, or of a message. A bad request is
//! answered and does not end anything.

use std::io::{self, Read, Write};

use crate::data;
use crate::engine::Engine;
use crate::error::{Error, Result};

/// The version that the greeting names.
pub const PROTOCOL: u32 = 1;

/// Most bytes of a request's samples; longer requests are refused, their bytes skipped.
pub const MOST_BYTES: usize = 1 << 26;

/// Samples for which memory is kept.
const BATCH: usize = 64;

const DONE: u32 = 0;
const REFUSED: u32 = 1;

/// Greets, then answers every request from `input` on `output`, in order, until `input` ends between
/// two requests or nobody reads `output` any more. More than a panel of samples runs on up to
/// `threads` threads.
///
/// # Errors
/// [`Error::Data`] if the input ends inside a request, [`Error::Io`] if it cannot be read or the
/// output cannot be written.
pub fn serve(
    engine: &Engine,
    threads: usize,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<()> {
    let (ins, outs) = (engine.input_shape(), engine.output_shape());
    let shapes = [ins, outs].into_iter().flat_map(|s| [s.channels, s.height, s.width]);
    let greeting = std::iter::once(PROTOCOL).chain(shapes.map(|n| n as u32));
    let greeting: Vec<u8> = greeting.flat_map(u32::to_le_bytes).collect();
    let (ins, outs) = (ins.elements()?, outs.elements()?);
    let mut server = Server {
        engine,
        threads,
        ins,
        outs,
        workspace: engine.workspace(BATCH),
        request: Vec::new(),
        samples: Vec::new(),
        outputs: Vec::new(),
    };
    let mut reply = Vec::new();
    put_reply(&mut reply, DONE, &greeting);
    loop {
        match output.write_all(&reply).and_then(|()| output.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(|cause| failed("standard output", cause))?,
        }
        let Some(length) = next_length(input)? else { return Ok(()) };
        reply.clear();
        match server.read(input, length)? {
            Ok(()) => match server.run() {
                Ok(()) => server.put_outputs(&mut reply),
                Err(e) => put_reply(&mut reply, REFUSED, e.to_string().as_bytes()),
            },
            Err(problem) => put_reply(&mut reply, REFUSED, problem.as_bytes()),
        }
    }
}

/// The engine with the memory that requests share.
struct Server<'a> {
    engine: &'a Engine,
    threads: usize,
    ins: usize,
    outs: usize,
    workspace: crate::engine::Workspace,
    request: Vec<u8>,
    samples: Vec<f32>,
    outputs: Vec<f32>,
}

impl Server<'_> {
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
                self.engine.input_shape()
            )
        } else {
            self.request.clear();
            take(input, length, |bytes| self.request.extend_from_slice(bytes))?;
            return Ok(Ok(()));
        };
        take(input, length, |_| ())?;
        Ok(Err(problem))
    }

    fn run(&mut self) -> Result<()> {
        self.samples.clear();
        self.samples.extend(self.request.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)));
        data::finite("element", &self.samples, self.ins)?;
        self.outputs.clear();
        self.outputs.resize(self.samples.len() / self.ins.max(1) * self.outs, 0.0);
        if self.threads > 1 && self.samples.len() > self.ins {
            return self.engine.run_parallel(&self.samples, &mut self.outputs, self.threads);
        }
        self.engine.run(&mut self.workspace, &self.samples, &mut self.outputs)
    }

    fn put_outputs(&self, reply: &mut Vec<u8>) {
        put_header(reply, DONE, 4 * self.outputs.len());
        reply.extend(self.outputs.iter().flat_map(|v| v.to_le_bytes()));
    }
}

fn put_header(reply: &mut Vec<u8>, status: u32, length: usize) {
    reply.extend(status.to_le_bytes());
    reply.extend((length as u32).to_le_bytes());
}

fn put_reply(reply: &mut Vec<u8>, status: u32, body: &[u8]) {
    put_header(reply, status, body.len());
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
