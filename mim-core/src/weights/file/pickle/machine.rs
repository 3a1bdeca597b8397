//! The operations of a pickle, one after the other.

use std::collections::HashMap;

use super::{Id, Node};

/// More values than any checkpoint has: each operation of one byte can make one.
pub(super) const MOST: usize = 4_000_000;
/// Longer names than any class has: an operation of one byte can copy one.
const LONGEST: usize = 256;

type Outcome<T> = Result<T, String>;

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl Machine<'_> {
    /// The values of the first pickle in `bytes`, and the place of the one that it stands for.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and at which byte.
    pub(super) fn run(bytes: &[u8]) -> Outcome<(Vec<Node>, Id)> {
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        match machine.operate() {
            Ok(root) => Ok((machine.nodes, root)),
            Err(what) => Err(format!(
                "the pickle is damaged at byte {}: {what}",
                machine.at
            )),
        }
    }

    fn operate(&mut self) -> Outcome<Id> {
        loop {
            if self.nodes.len() > MOST {
                return Err(format!("it has more than {MOST} values"));
            }
            let code = self.take(1)?[0];
            if code == b'.' {
                return self.pop();
            }
            let known = self.value(code)? || self.container(code)? || self.object(code)?;
            if !known {
                return Err(format!("there is no operation {code:#04x}"));
            }
        }
    }

    fn take(&mut self, count: usize) -> Outcome<&[u8]> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or("it is cut short")?;
        self.at += count;
        Ok(taken)
    }

    /// A little-endian number of up to 8 bytes.
    fn number(&mut self, bytes: usize) -> Outcome<u64> {
        let taken = self.take(bytes)?.iter().rev();
        Ok(taken.fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn length(&mut self, bytes: usize) -> Outcome<usize> {
        usize::try_from(self.number(bytes)?).map_err(|_| "a length does not fit".to_owned())
    }

    /// The text up to the end of the line.
    fn line(&mut self) -> Outcome<String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or("it is cut short")?;
        self.at += end + 1;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }

    fn text(&mut self, length_bytes: usize) -> Outcome<Node> {
        let length = self.length(length_bytes)?;
        Ok(Node::Text(
            String::from_utf8_lossy(self.take(length)?).into_owned(),
        ))
    }

    fn skip(&mut self, length_bytes: usize) -> Outcome<Node> {
        let length = self.length(length_bytes)?;
        self.take(length)?;
        Ok(Node::Other)
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Outcome<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("a value is missing".to_owned());
        }
        self.stack
            .pop()
            .ok_or_else(|| "a value is missing".to_owned())
    }

    fn top(&self) -> Outcome<Id> {
        self.stack
            .last()
            .copied()
            .ok_or_else(|| "a value is missing".to_owned())
    }

    /// All values since the last mark.
    fn marked(&mut self) -> Outcome<Vec<Id>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn value(&mut self, code: u8) -> Outcome<bool> {
        let node = match code {
            b'N' | 0x88 | 0x89 => Node::Other,
            b'F' => {
                self.line()?;
                Node::Other
            }
            b'G' => {
                self.take(8)?;
                Node::Other
            }
            b'I' | b'L' => {
                let line = self.line()?;
                whole(line.trim_end_matches('L'))
            }
            #[expect(clippy::cast_possible_truncation, reason = "four bytes")]
            b'J' => Node::Int(i64::from((self.number(4)? as u32).cast_signed())),
            b'K' => Node::Int(self.number(1)?.cast_signed()),
            b'M' => Node::Int(self.number(2)?.cast_signed()),
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'S' => {
                let line = self.line()?;
                Node::Text(line.trim_matches(['\'', '"']).to_owned())
            }
            b'V' => Node::Text(self.line()?),
            b'U' | 0x8c => self.text(1)?,
            b'T' | b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' => self.skip(1)?,
            b'B' => self.skip(4)?,
            0x8e | 0x96 => self.skip(8)?,
            _ => return Ok(false),
        };
        self.push(node);
        Ok(true)
    }

    /// A number of any length in two's complement.
    fn long(&mut self, length_bytes: usize) -> Outcome<Node> {
        let length = self.length(length_bytes)?;
        if length > 8 {
            self.take(length)?;
            return Ok(Node::Other);
        }
        let value = self.number(length)?;
        let unused = 64 - 8 * u32::try_from(length).unwrap_or(8);
        Ok(match length {
            0 => Node::Int(0),
            _ => Node::Int((value << unused).cast_signed() >> unused),
        })
    }

    fn container(&mut self, code: u8) -> Outcome<bool> {
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

    /// Appends to the list on top; other collections are of no use here.
    fn extend(&mut self, items: Vec<Id>) -> Outcome<()> {
        let top = self.top()?;
        if let Node::Sequence(list) = &mut self.nodes[top] {
            list.extend(items);
        }
        Ok(())
    }

    /// Sets entries of the dict on top; an object with entries (a counter) keeps none.
    fn set(&mut self, items: &[Id]) -> Outcome<()> {
        let (top, more) = (self.top()?, pairs(items)?);
        if let Node::Dict(entries) = &mut self.nodes[top] {
            entries.extend(more);
        }
        Ok(())
    }

    fn object(&mut self, code: u8) -> Outcome<bool> {
        match code {
            0x80 => {
                self.take(1)?;
            }
            0x95 => {
                self.take(8)?;
            }
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
                self.stack
                    .push(kept.ok_or("it names a value that is not there")?);
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
            .map_err(|_| format!("`{line}` is no number"))
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

fn whole(text: &str) -> Node {
    // In protocol 0 the truth values are `01` and `00`.
    text.trim().parse().map_or(Node::Other, Node::Int)
}

fn pairs(items: &[Id]) -> Outcome<Vec<(Id, Id)>> {
    match items.len() % 2 {
        0 => Ok(items.chunks(2).map(|pair| (pair[0], pair[1])).collect()),
        _ => Err("a key has no value".to_owned()),
    }
}
