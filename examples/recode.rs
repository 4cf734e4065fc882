//! Codes a file again by the coder of this build, which says the same of the same network: `recode IN.svdo OUT.svdo
//! [fast]`. Variances and ranges of activations are left behind.

use std::process::ExitCode;

use svdo::container::{read, write};
use svdo::error::{Error, Result};

fn recode(input: &str, output: &str, fast: bool) -> Result<()> {
    let io = |path: &str| {
        let path = path.to_owned();
        move |error| Error::io(path, error)
    };
    let bytes = std::fs::read(input).map_err(io(input))?;
    let model = read(&bytes)?;
    let written = write(&model, fast)?.bytes;
    assert_eq!(read(&written)?, model, "what was written says the same");
    std::fs::write(output, &written).map_err(io(output))?;
    println!("{input}: {} bytes, now {}", bytes.len(), written.len());
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [input, output] => recode(input, output, false),
        [input, output, "fast"] => recode(input, output, true),
        _ => {
            eprintln!("usage: recode IN.svdo OUT.svdo [fast]");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.line());
            ExitCode::from(2)
        }
    }
}
