//! The pickle machine: runs the operations in order, and creates simple values.

use std::collections::HashMap;

use super::{Id, Node};

/// Limit on values, above any checkpoint: each one-byte operation can create one.
pub(super) const MOST: usize = 4_000_000;
pub(super) type Outcome<T> = Result<T, String>;

pub(super) struct Machine<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) nodes: Vec<Node>,
    pub(super) stack: Vec<Id>,
    pub(super) marks: Vec<usize>,
    pub(super) memo: HashMap<usize, Id>,
}

impl Machine<'_> {
    /// The values of the first pickle in `bytes`, and the index of its result.
    ///
    /// # Errors
    ///
    /// Describes the problem and its byte offset.
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
            let known = self.value(code)?
                || self.container(code)?
                || self.memo(code)?
                || self.object(code)?;
            if !known {
                return Err(format!("unknown operation {code:#04x}"));
            }
        }
    }

    pub(super) fn take(&mut self, count: usize) -> Outcome<&[u8]> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or("it is cut short")?;
        self.at += count;
        Ok(taken)
    }

    /// A little-endian number of up to 8 bytes.
    pub(super) fn number(&mut self, bytes: usize) -> Outcome<u64> {
        let taken = self.take(bytes)?.iter().rev();
        Ok(taken.fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    pub(super) fn length(&mut self, bytes: usize) -> Outcome<usize> {
        usize::try_from(self.number(bytes)?).map_err(|_| "a length is too large".to_owned())
    }

    /// Reads text up to the end of the line.
    pub(super) fn line(&mut self) -> Outcome<String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or("it is cut short")?;
        self.at += end + 1;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }

    pub(super) fn text(&mut self, length_bytes: usize) -> Outcome<Node> {
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

    pub(super) fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    pub(super) fn pop(&mut self) -> Outcome<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("a value is missing".to_owned());
        }
        self.stack
            .pop()
            .ok_or_else(|| "a value is missing".to_owned())
    }

    pub(super) fn top(&self) -> Outcome<Id> {
        self.stack
            .last()
            .copied()
            .ok_or_else(|| "a value is missing".to_owned())
    }

    /// All values since the last mark.
    pub(super) fn marked(&mut self) -> Outcome<Vec<Id>> {
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
}

fn whole(text: &str) -> Node {
    // In protocol 0, booleans are `01` and `00`.
    text.trim().parse().map_or(Node::Other, Node::Int)
}
