//! A process that keeps a network for others: `svdo-infer --serve-stdin` behind a pair of pipes, as formats/serve.md
//! says. The client needs no library: any language that starts a process can do the same.
//!
//!     svdo-compress fixtures/lenet300_mnist.safetensors -o model.svdo
//!     cargo run --release --example serve -- model.svdo

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::process::{Child, Command, Stdio};

struct Server {
    process: Child,
    /// Channels, height and width of an input sample and of an output sample.
    shapes: [[usize; 3]; 2],
}

impl Server {
    fn start(program: &str, model: &str) -> Result<Self> {
        let process = Command::new(program)
            .args([model, "--serve-stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| Error::new(e.kind(), format!("{program}: {e}")))?;
        let mut server = Self { process, shapes: [[0; 3]; 2] };
        let greeting = server.reply()?;
        let (numbers, _) = greeting.as_chunks::<4>();
        let numbers: Vec<usize> =
            numbers.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize).collect();
        let [1, a, b, c, d, e, f] = numbers[..] else {
            return Err(Error::other("the server speaks another version of the protocol"));
        };
        server.shapes = [[a, b, c], [d, e, f]];
        Ok(server)
    }

    /// The body of the next reply; a refusal is an error.
    fn reply(&mut self) -> Result<Vec<u8>> {
        let pipe = self.process.stdout.as_mut().ok_or(ErrorKind::BrokenPipe)?;
        let mut number = || {
            let mut bytes = [0; 4];
            pipe.read_exact(&mut bytes).map(|()| u32::from_le_bytes(bytes))
        };
        let (status, length) = (number()?, number()?);
        let mut body = vec![0; length as usize];
        pipe.read_exact(&mut body)?;
        match status {
            0 => Ok(body),
            _ => Err(Error::other(String::from_utf8_lossy(&body).into_owned())),
        }
    }

    /// The outputs of raw samples, one after the other.
    fn run(&mut self, samples: &[f32]) -> Result<Vec<f32>> {
        let body: Vec<u8> = samples.iter().flat_map(|value| value.to_le_bytes()).collect();
        let length = u32::try_from(body.len()).map_err(Error::other)?;
        let pipe = self.process.stdin.as_mut().ok_or(ErrorKind::BrokenPipe)?;
        pipe.write_all(&length.to_le_bytes())?;
        pipe.write_all(&body)?;
        pipe.flush()?;
        let reply = self.reply()?;
        Ok(reply.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, program) = match &arguments[..] {
        [model] => (model.as_str(), "svdo-infer"),
        [model, program] => (model.as_str(), program.as_str()),
        _ => {
            eprintln!("usage: serve MODEL [SVDO-INFER]");
            std::process::exit(2);
        }
    };
    let mut server = Server::start(program, model)?;
    let [input, output] = server.shapes;
    println!("input {input:?}, output {output:?}");
    let sample = vec![0.5; input.iter().product()];
    println!("{:?}", server.run(&sample)?);
    // What is refused ends nothing.
    println!(
        "refused: {}",
        server.run(&sample[1..]).err().map_or_else(String::new, |e| e.to_string())
    );
    println!("{:?}", server.run(&sample)?);
    drop(server.process.stdin.take());
    println!("it ended with {}", server.process.wait()?);
    Ok(())
}
