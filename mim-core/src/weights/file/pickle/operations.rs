//! Operations that build containers and objects.

use super::machine::{Machine, Outcome};
use super::{Id, Node};

/// Limit on the length of a name, above any class: a one-byte operation can copy it.
const LONGEST: usize = 256;

impl Machine<'_> {
    /// Operations that build tuples, lists and dicts, and move values on the stack.
    pub(super) fn container(&mut self, code: u8) -> Outcome<bool> {
        match code {
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.marked()?;
            }
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b')' | b']' => self.push(Node::Sequence(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            0x8f => self.push(Node::Other),
            b't' | b'l' => {
                let items = self.marked()?;
                self.push(Node::Sequence(items));
            }
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..code {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Node::Sequence(items));
            }
            b'd' => {
                let items = self.marked()?;
                self.push(Node::Dict(pairs(&items)?));
            }
            0x91 => {
                self.marked()?;
                self.push(Node::Other);
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.extend(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.set(&items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Appends to the list on top; other collections are not needed.
    fn extend(&mut self, items: Vec<Id>) -> Outcome<()> {
        let top = self.top()?;
        if let Node::Sequence(list) = &mut self.nodes[top] {
            list.extend(items);
        }
        Ok(())
    }

    /// Sets entries of the dict on top; entries of other objects (a counter) are dropped.
    fn set(&mut self, items: &[Id]) -> Outcome<()> {
        let (top, more) = (self.top()?, pairs(items)?);
        if let Node::Dict(entries) = &mut self.nodes[top] {
            entries.extend(more);
        }
        Ok(())
    }

    /// Operations that store a value in the memo, or fetch it.
    pub(super) fn memo(&mut self, code: u8) -> Outcome<bool> {
        match code {
            b'p' | b'q' | b'r' | 0x94 => {
                let place = match code {
                    b'p' => self.place()?,
                    b'q' => self.length(1)?,
                    b'r' => self.length(4)?,
                    _ => self.memo.len(),
                };
                let top = self.top()?;
                self.memo.insert(place, top);
            }
            b'g' | b'h' | b'j' => {
                let place = match code {
                    b'g' => self.place()?,
                    b'h' => self.length(1)?,
                    _ => self.length(4)?,
                };
                let kept = self.memo.get(&place).copied();
                self.stack.push(kept.ok_or("it names a missing value")?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Operations that name and call classes and functions; nothing is called.
    pub(super) fn object(&mut self, code: u8) -> Outcome<bool> {
        match code {
            0x80 => {
                self.take(1)?;
            }
            0x95 => {
                self.take(8)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(global(&module, &name));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id: Id| match &self.nodes[id] {
                    Node::Text(text) => text,
                    _ => "?",
                };
                let global = global(text(module), text(name));
                self.push(global);
            }
            b'P' => {
                let line = self.line()?;
                self.push(Node::Text(line));
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            b'R' | 0x81 => {
                let (with, by) = (self.pop()?, self.pop()?);
                self.make(by, with);
            }
            0x92 => {
                self.pop()?;
                let (with, by) = (self.pop()?, self.pop()?);
                self.make(by, with);
            }
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            b'i' => {
                let class = (self.line()?, self.line()?);
                let items = self.marked()?;
                self.push(global(&class.0, &class.1));
                let by = self.pop()?;
                self.push(Node::Sequence(items));
                let with = self.pop()?;
                self.make(by, with);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn place(&mut self) -> Outcome<usize> {
        let line = self.line()?;
        line.trim()
            .parse()
            .map_err(|_| format!("`{line}` is not a number"))
    }

    fn make(&mut self, by: Id, with: Id) {
        let dict = match &self.nodes[by] {
            Node::Global(name) => matches!(
                name.as_str(),
                "collections.OrderedDict" | "collections.defaultdict" | "builtins.dict"
            ),
            _ => false,
        };
        self.push(match dict {
            true => Node::Dict(Vec::new()),
            false => Node::Made { by, with },
        });
    }
}

fn global(module: &str, name: &str) -> Node {
    match module.len() + name.len() > LONGEST {
        true => Node::Other,
        false => Node::Global(format!("{module}.{name}")),
    }
}

fn pairs(items: &[Id]) -> Outcome<Vec<(Id, Id)>> {
    match items.len() % 2 {
        0 => Ok(items.chunks(2).map(|pair| (pair[0], pair[1])).collect()),
        _ => Err("a key has no value".to_owned()),
    }
}
