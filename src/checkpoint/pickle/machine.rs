//! The stack machine: one method for each kind of instruction, none of which calls anything.

use std::collections::HashMap;

use super::input::{Input, SHORT, Step, Stop};
use super::{Id, Node, Pickle, is_known};
use crate::checkpoint::stored::Part;
use crate::error::{Error, Result};

/// A pickle may hold this many objects.
const MAX_NODES: usize = 1 << 20;
/// and this many instructions. Together they bound the memory that reading one takes to 0.5 GiB.
const MAX_STEPS: usize = 1 << 24;

/// Reads the pickle that begins at `start`.
///
/// # Errors
/// What is wrong and at which byte; a function that is not on the list, by name.
pub(in crate::checkpoint) fn read(part: &Part, start: u64) -> Result<Pickle> {
    let mut machine = Machine {
        input: Input::new(part, start),
        nodes: vec![Node::None],
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
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
        if machine.stack.len().max(machine.marks.len()).max(machine.memo.len()) > MAX_NODES {
            break;
        }
    }
    let problem = format!("more than {MAX_STEPS} instructions or {MAX_NODES} objects at once");
    Err(Error::Format { format: "pickle", problem })
}

struct Machine<'a> {
    input: Input<'a>,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl Machine<'_> {
    fn push(&mut self, node: Node) -> Step<()> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Stop::Problem(format!("more than {MAX_NODES} objects")));
        }
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
        Ok(())
    }

    fn pop(&mut self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the stack is empty".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        if mark > self.stack.len() {
            return Err("a mark is above the stack".into());
        }
        Ok(self.stack.split_off(mark))
    }

    fn pop_pairs_to_mark(&mut self) -> Step<Vec<(Id, Id)>> {
        let items = self.pop_to_mark()?;
        if items.len() % 2 == 1 {
            return Err("a key without a value".into());
        }
        Ok(items.as_chunks::<2>().0.iter().map(|&[k, v]| (k, v)).collect())
    }

    fn tuple(&mut self, count: usize) -> Step<()> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Tuple(items))
    }

    fn text(&mut self, length: u64) -> Step<()> {
        let start = self.input.skip(length)?;
        if length > SHORT {
            return self.push(Node::Bytes { start, length });
        }
        let bytes = self.input.part.bytes(start, length, SHORT).map_err(Stop::Read)?;
        let text = String::from_utf8(bytes).map_err(|_| "a text is not UTF-8")?;
        self.push(Node::Text { text, start })
    }

    fn raw(&mut self, length: u64) -> Step<()> {
        let start = self.input.skip(length)?;
        self.push(Node::Bytes { start, length })
    }

    /// A string of Python 2: names are texts, values of arrays are bytes.
    fn old_string(&mut self, length: u64) -> Step<()> {
        if length <= 256 {
            let start = self.input.at;
            let bytes = match self.input.part.length().saturating_sub(start) {
                left if left < length => return Err("it ends within a string".into()),
                _ => self.input.part.bytes(start, length, SHORT).map_err(Stop::Read)?,
            };
            if let Ok(text) = std::str::from_utf8(&bytes)
                && text.bytes().all(|b| (b' '..=b'~').contains(&b))
            {
                self.input.skip(length)?;
                return self.push(Node::Text { text: text.to_owned(), start });
            }
        }
        self.raw(length)
    }

    /// A text written with escapes, whose bytes are therefore nowhere.
    fn line_of_text(&mut self, text: String) -> Step<()> {
        self.push(Node::Text { text, start: u64::MAX })
    }

    fn global(&mut self, module: &str, name: &str) -> Step<()> {
        let global = format!("{module}.{name}");
        if !is_known(&global) {
            return Err(Stop::Problem(format!(
                "{global} is not among the functions and classes that a checkpoint may refer to \
                 (nothing was executed): save only the tensors, as in \
                 torch.save(model.state_dict(), ...)"
            )));
        }
        self.push(Node::Global(global))
    }

    fn call(&mut self) -> Step<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Node::Global(function) = &self.nodes[function] else {
            return Err("it calls something that is not a function".into());
        };
        let function = function.clone();
        self.push(Node::Call { function, arguments, state: None, items: Vec::new() })
    }

    fn put(&mut self, index: u64) -> Step<()> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn get(&mut self, index: u64) -> Step<()> {
        let id = *self.memo.get(&index).ok_or("it refers to an object that it did not store")?;
        self.stack.push(id);
        Ok(())
    }

    fn append(&mut self, values: Vec<Id>) -> Step<()> {
        let list = self.top()?;
        match &mut self.nodes[list] {
            Node::List(items) => items.extend(values),
            Node::Call { .. } => {}
            _ => return Err("it appends to something that is not a list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, pairs: Vec<(Id, Id)>) -> Step<()> {
        let dict = self.top()?;
        match &mut self.nodes[dict] {
            Node::Dict(items) | Node::Call { items, .. } => items.extend(pairs),
            _ => return Err("it sets items of something that is not a dictionary".into()),
        }
        Ok(())
    }

    fn long(&mut self, length: u64) -> Step<()> {
        let start = self.input.skip(length)?;
        let bytes = self.input.part.bytes(start, length, 1 << 16).map_err(Stop::Read)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        if bytes.len() > 8 {
            return self.push(Node::None);
        }
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(&bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

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
                    Node::Call { state: of, .. } => *of = Some(state),
                    _ => return Err("it gives a state to something that has none".into()),
                }
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            opcode => {
                return Err(Stop::Problem(format!(
                    "opcode {opcode:#04x} has no place in a checkpoint"
                )));
            }
        }
        Ok(None)
    }
}
