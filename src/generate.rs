//! Token after token: a network that says what comes next goes on from what it is given.

use crate::engine::{Engine, Isa, Options, Workspace};
use crate::error::{Error, Result};
use crate::measure::uniform;
use crate::model::Model;
use crate::network::{Network, Node, Op, Source};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Choice {
    /// The most likely one at 0; else drawn, by probabilities whose logarithms are divided by it.
    pub temperature: f32,
    /// Of what is drawn. The tokens drawn depend on it, the model and the prompt alone.
    pub seed: u64,
}

/// Most tokens of a prompt that are read at once.
const MOST_READ: usize = 16;

/// A network over token ids whose outputs at a step are numbers for the next one: logits, their logarithmic softmax
/// or probabilities.
#[derive(Debug)]
pub struct Generator {
    engine: Engine,
    /// The same for several tokens at once, of which each costs less.
    reader: Option<Engine>,
    longest: Option<usize>,
    vocabulary: usize,
    outputs: usize,
    probabilities: bool,
}

impl Generator {
    /// Plans the network for one token at a time, and for a prompt's in parts. Cells keep their states, attention its keys and values, so that
    /// each token costs as much as it looks at.
    ///
    /// # Errors
    /// [`Error::Network`] for a network that cannot run as a stream, takes other inputs than ids of one token, or gives
    /// more numbers a step than there are ids.
    pub fn new(model: &Model, isa: Isa, threads: usize) -> Result<Self> {
        let network = &model.network;
        let longest = network.time.as_ref().map(|time| time.longest);
        let options = Options { stream: true, threads, ..Options::default() };
        let (engine, reader) = match longest {
            Some(longest) => {
                // A prompt has to be longer than what is read at once.
                let several = Some(MOST_READ.min(longest / 2)).filter(|&read| read > 1);
                let parts: Vec<usize> = [1].into_iter().chain(several).collect();
                let mut plans = Engine::of_parts(model, isa, options, &parts)?.into_iter();
                (plans.next(), plans.next())
            }
            None => (Some(Engine::with_options(model, isa, options)?), None),
        };
        let Some(engine) = engine else { return Err(Error::network("no plan was made")) };
        let (Some(vocabulary), 1) = (engine.vocabulary(), engine.input_shape().elements()?) else {
            return Err(Error::network(
                "to generate, a network has to take token ids, one at a time: it has other inputs, or several steps \
                 at once (import it with free time)",
            ));
        };
        let outputs = engine.output_shape().elements()?;
        if outputs > vocabulary {
            return Err(Error::network(format!(
                "it gives {outputs} numbers a step and takes {vocabulary} ids: these are no tokens to go on with"
            )));
        }
        Ok(Self {
            engine,
            reader,
            longest,
            vocabulary,
            outputs,
            probabilities: gives_probabilities(network),
        })
    }

    /// How many ids there are.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The `count` tokens that follow a prompt.
    ///
    /// # Errors
    /// [`Error::Data`] for a prompt without tokens or with others than there are, for more than the longest sequence,
    /// and for an output that is no finite number.
    pub fn generate(&self, prompt: &[f32], count: usize, choice: Choice) -> Result<Vec<u32>> {
        if prompt.is_empty() {
            return Err(Error::data("a prompt of no tokens: there is nothing to go on from"));
        }
        // The last one is not read again.
        let read = prompt.len().saturating_add(count).saturating_sub(1);
        if let Some(longest) = self.longest.filter(|&longest| read > longest) {
            return Err(Error::data(format!(
                "a prompt of {} tokens and {count} more: the network takes sequences of {longest} at most",
                prompt.len()
            )));
        }
        let mut workspace = self.engine.workspace(1);
        let mut outputs = vec![0.0; self.outputs];
        for token in self.read(&mut workspace, prompt)? {
            self.engine.run(&mut workspace, std::slice::from_ref(token), &mut outputs)?;
        }
        let mut tokens = Vec::new();
        while tokens.len() < count {
            crate::data::finite("output", &outputs, self.outputs)?;
            let first = choice.seed.wrapping_mul(0xd134_2543_de82_ef95);
            let number = uniform(first.wrapping_add(tokens.len() as u64));
            let next = self.chosen(&outputs, choice.temperature, f64::from(number));
            tokens.push(next as u32);
            if tokens.len() < count {
                self.engine.run(&mut workspace, &[next as f32], &mut outputs)?;
            }
        }
        Ok(tokens)
    }

    /// Reads a prompt but for its end, which is left.
    fn read<'a>(&self, workspace: &mut Workspace, prompt: &'a [f32]) -> Result<&'a [f32]> {
        let Some(reader) = &self.reader else { return Ok(prompt) };
        let read = reader.input_shape().elements()?;
        let (parts, end) = prompt.split_at((prompt.len() - 1) / read * read);
        if parts.is_empty() {
            return Ok(prompt);
        }
        let mut own = reader.workspace(1);
        let mut outputs = vec![0.0; reader.output_shape().elements()?];
        for part in parts.chunks_exact(read) {
            reader.run(&mut own, part, &mut outputs)?;
        }
        self.engine.take_over(workspace, (reader, &mut own))?;
        Ok(end)
    }

    /// The next token, by a number from 0 to below 1.
    fn chosen(&self, outputs: &[f32], temperature: f32, number: f64) -> usize {
        let first = |(best, most): (usize, f32), (at, &y): (usize, &f32)| {
            if y > most { (at, y) } else { (best, most) }
        };
        let (best, most) = outputs.iter().enumerate().fold((0, f32::NEG_INFINITY), first);
        if temperature == 0.0 {
            return best;
        }
        let weight = |y: f32| {
            let logarithm = |y: f32| match self.probabilities {
                true => libm::log(f64::from(y)),
                false => f64::from(y),
            };
            libm::exp((logarithm(y) - logarithm(most)) / f64::from(temperature))
        };
        let all: f64 = outputs.iter().map(|&y| weight(y)).sum();
        let mut left = number * all;
        for (at, &y) in outputs.iter().enumerate() {
            left -= weight(y);
            if left < 0.0 {
                return at;
            }
        }
        best
    }
}

/// Whether a network ends in softmax, whatever moves its elements then.
fn gives_probabilities(network: &Network) -> bool {
    let mut last = network.nodes.last();
    while let Some(Node { op: Op::Rearrange(_) | Op::Flatten, inputs, .. }) = last {
        last = match inputs[..] {
            [Source::Node(at)] => network.nodes.get(at),
            _ => None,
        };
    }
    last.is_some_and(|node| node.op == Op::Softmax)
}
