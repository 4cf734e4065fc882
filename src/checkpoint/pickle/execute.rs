//! Instruction by instruction through a pickle.

use super::input::{Input, Step, Stop};
use super::machine::{MAX_NODES, Machine};
use super::{Id, Node, Pickle};
use crate::budget::ReadBudget;
use crate::checkpoint::stored::Part;
use crate::error::{Error, Result};

/// A pickle may have this many instructions.
const MAX_STEPS: usize = 1 << 24;

/// Reads the pickle that begins at `start`, at the cost of `budget`.
///
/// # Errors
/// What is wrong and at which byte; a function that is not on the list, by name; [`Error::Limit`].
pub(in crate::checkpoint) fn read(part: &Part, start: u64, budget: &ReadBudget) -> Result<Pickle> {
    let mut machine = Machine::new(Input::new(part, start), budget);
    for _ in 0..MAX_STEPS {
        let at = machine.input.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(root)) => {
                return Ok(Pickle { nodes: machine.nodes, root, end: machine.input.at });
            }
            Err(Stop::Read(error)) => return Err(error),
            Err(Stop::Problem(problem)) => {
                let problem = format!("byte {at}: {problem}");
                return Err(Error::Format { format: "pickle", problem });
            }
        }
        if machine.depth() > MAX_NODES {
            break;
        }
    }
    let problem = format!("more than {MAX_STEPS} instructions or {MAX_NODES} objects at once");
    Err(Error::Format { format: "pickle", problem })
}

impl Machine<'_> {
    /// Executes an opcode; gives the object at the end.
    fn step(&mut self) -> Step<Option<Id>> {
        match self.input.byte()? {
            0x80 => {
                let version = self.input.byte()?;
                if version > 5 {
                    return Err(Stop::Problem(format!(
                        "pickle protocol {version}, 0 to 5 are read"
                    )));
                }
            }
            0x95 => drop(self.input.number::<8>()?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }
            opcode @ (b'N' | 0x88 | 0x89 | b'I' | b'L' | b'J' | b'K' | b'M' | 0x8a | 0x8b
            | b'F' | b'G') => self.constant(opcode)?,
            opcode @ (b'X' | 0x8c | 0x8d | b'V' | b'S' | b'U' | b'T' | b'C' | b'B' | 0x8e
            | 0x96) => self.string(opcode)?,
            opcode @ (b']' | b'}' | 0x8f | b')' | b't' | b'l' | 0x91 | b'd' | 0x85 | 0x86
            | 0x87 | b'a' | b'e' | 0x90 | b's' | b'u') => self.collection(opcode)?,
            opcode @ (b'p' | b'q' | b'r' | 0x94 | b'g' | b'h' | b'j') => self.memory(opcode)?,
            opcode @ (b'c' | 0x93 | b'R' | 0x81 | 0x92 | b'b' | b'Q') => self.object(opcode)?,
            opcode => return Err(unknown(opcode)),
        }
        Ok(None)
    }

    /// Numbers and what else is a value of its own.
    fn constant(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'I' | b'L' => {
                let line = self.input.line()?;
                let node = match line.as_str() {
                    "01" => Node::Bool(true),
                    "00" => Node::Bool(false),
                    text => text.trim_end_matches('L').parse().map_or(Node::None, Node::Int),
                };
                self.push(node)?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.input.bytes()?);
                self.push(Node::Int(value.into()))?;
            }
            b'K' => {
                let value = self.input.byte()?;
                self.push(Node::Int(value.into()))?;
            }
            b'M' => {
                let value = self.input.number::<2>()?;
                self.push(Node::Int(value as i64))?;
            }
            0x8a => {
                let length = self.input.number::<1>()?;
                self.long(length)?;
            }
            0x8b => {
                let length = self.input.number::<4>()?;
                self.long(length)?;
            }
            b'F' => {
                let line = self.input.line()?;
                self.push(Node::Float(line.parse().map_err(|_| "not a number")?))?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.input.bytes()?);
                self.push(Node::Float(value))?;
            }
            _ => return Err(unknown(opcode)),
        }
        Ok(())
    }

    /// Texts and bytes.
    fn string(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            b'X' => {
                let length = self.input.number::<4>()?;
                self.text(length)?;
            }
            0x8c => {
                let length = self.input.number::<1>()?;
                self.text(length)?;
            }
            0x8d => {
                let length = self.input.number::<8>()?;
                self.text(length)?;
            }
            b'V' => {
                let line = self.input.line()?;
                self.line_of_text(line)?;
            }
            b'S' => {
                let line = self.input.line()?;
                self.line_of_text(line.trim_matches(['\'', '"']).to_owned())?;
            }
            b'U' => {
                let length = self.input.number::<1>()?;
                self.old_string(length)?;
            }
            b'T' => {
                let length = self.input.number::<4>()?;
                self.old_string(length)?;
            }
            b'C' => {
                let length = self.input.number::<1>()?;
                self.raw(length)?;
            }
            b'B' => {
                let length = self.input.number::<4>()?;
                self.raw(length)?;
            }
            0x8e | 0x96 => {
                let length = self.input.number::<8>()?;
                self.raw(length)?;
            }
            _ => return Err(unknown(opcode)),
        }
        Ok(())
    }

    /// Lists, tuples, dictionaries and what goes into them.
    fn collection(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            b']' => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            0x8f => self.push(Node::List(Vec::new()))?,
            b')' => self.push(Node::Tuple(Vec::new()))?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items))?;
            }
            b'l' | 0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Node::List(items))?;
            }
            b'd' => {
                let items = self.pop_pairs_to_mark()?;
                self.push(Node::Dict(items))?;
            }
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b'a' => {
                let value = self.pop()?;
                self.append(vec![value])?;
            }
            b'e' | 0x90 => {
                let values = self.pop_to_mark()?;
                self.append(values)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![(key, value)])?;
            }
            b'u' => {
                let pairs = self.pop_pairs_to_mark()?;
                self.set_items(pairs)?;
            }
            _ => return Err(unknown(opcode)),
        }
        Ok(())
    }

    /// What is stored to be referred to.
    fn memory(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            b'p' => {
                let line = self.input.line()?;
                self.put(line.parse().map_err(|_| "not a number")?)?;
            }
            b'q' => {
                let index = self.input.number::<1>()?;
                self.put(index)?;
            }
            b'r' => {
                let index = self.input.number::<4>()?;
                self.put(index)?;
            }
            0x94 => self.put(self.memo.len() as u64)?,
            b'g' => {
                let line = self.input.line()?;
                self.get(line.parse().map_err(|_| "not a number")?)?;
            }
            b'h' => {
                let index = self.input.number::<1>()?;
                self.get(index)?;
            }
            b'j' => {
                let index = self.input.number::<4>()?;
                self.get(index)?;
            }
            _ => return Err(unknown(opcode)),
        }
        Ok(())
    }

    /// Functions, calls and the objects that they would make.
    fn object(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Text { text: module, .. }, Node::Text { text: name, .. }) =
                    (&self.nodes[module], &self.nodes[name])
                else {
                    return Err("a function's name is not a text".into());
                };
                let (module, name) = (module.clone(), name.clone());
                self.global(&module, &name)?;
            }
            b'R' | 0x81 => self.call()?,
            0x92 => {
                self.pop()?;
                self.call()?;
            }
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?;
                match &mut self.nodes[object] {
                    Node::Call(call) => call.state = Some(state),
                    _ => return Err("it gives a state to something that has none".into()),
                }
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            _ => return Err(unknown(opcode)),
        }
        Ok(())
    }
}

fn unknown(opcode: u8) -> Stop {
    Stop::Problem(format!("opcode {opcode:#04x} has no place in a checkpoint"))
}
