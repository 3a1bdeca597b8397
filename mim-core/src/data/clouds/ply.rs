//! The Polygon File Format, as text and binary.

/// How the values of a file are written.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Encoding {
    Text,
    Little,
    Big,
}

/// A property of an element.
#[derive(Debug, Clone, PartialEq)]
struct Property {
    name: String,
    kind: Kind,
    /// The type of the length of a list.
    length: Option<Kind>,
}

/// A type of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    F32,
    F64,
}

/// Things of one kind in a file.
#[derive(Debug)]
struct Element {
    name: String,
    count: usize,
    properties: Vec<Property>,
}

/// The vertices of a `.ply` file.
pub(super) fn points(bytes: &[u8]) -> Result<Vec<[f32; 3]>, String> {
    let (encoding, elements, body) = header(bytes)?;
    let mut values = Values {
        encoding,
        bytes: body,
    };
    for element in &elements {
        if element.name == "vertex" {
            return vertices(element, &mut values);
        }
        // Without properties they take no bytes, so nothing would end their loop early.
        if element.properties.is_empty() {
            continue;
        }
        for _ in 0..element.count {
            for property in &element.properties {
                let count = match property.length {
                    Some(length) => values.count(length)?,
                    None => 1,
                };
                for _ in 0..count {
                    values.next(property.kind)?;
                }
            }
        }
    }
    Err("it has no vertices".to_owned())
}

fn vertices(element: &Element, values: &mut Values<'_>) -> Result<Vec<[f32; 3]>, String> {
    let place = |name: &str| {
        let mut properties = element.properties.iter();
        let found = properties.position(|property| property.name == name);
        found.ok_or_else(|| format!("its vertices have no {name}"))
    };
    let axes = [place("x")?, place("y")?, place("z")?];
    if element.properties.iter().any(|one| one.length.is_some()) {
        return Err("its vertices have lists".to_owned());
    }
    let mut points = Vec::new();
    let mut row = vec![0f64; element.properties.len()];
    for found in 0..element.count {
        for (value, property) in row.iter_mut().zip(&element.properties) {
            let ended = |why| format!("{why} after {found} of {} vertices", element.count);
            *value = values.next(property.kind).map_err(ended)?;
        }
        #[expect(clippy::cast_possible_truncation, reason = "coordinates are f32")]
        points.push(axes.map(|axis| row[axis] as f32));
    }
    Ok(points)
}

fn header(bytes: &[u8]) -> Result<(Encoding, Vec<Element>, &[u8]), String> {
    let (mut rest, mut encoding) = (bytes, None);
    let mut elements: Vec<Element> = Vec::new();
    let mut first = true;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or("it ends before the end of its header")?;
        let line = String::from_utf8_lossy(&rest[..end]).trim().to_owned();
        rest = &rest[end + 1..];
        if std::mem::take(&mut first) {
            if line != "ply" {
                return Err("it does not start with ply".to_owned());
            }
            continue;
        }
        let bad = || format!("its header says {line:?}");
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["format", format, _] => {
                encoding = Some(match format {
                    "ascii" => Encoding::Text,
                    "binary_little_endian" => Encoding::Little,
                    "binary_big_endian" => Encoding::Big,
                    _ => return Err(bad()),
                });
            }
            ["element", name, count] => elements.push(Element {
                name: name.to_owned(),
                count: count.parse().map_err(|_| bad())?,
                properties: Vec::new(),
            }),
            ["property", ref words @ ..] => {
                let property = match *words {
                    ["list", length, kind, name] => Kind::named(length)
                        .zip(Kind::named(kind))
                        .map(|(length, kind)| (Some(length), kind, name)),
                    [kind, name] => Kind::named(kind).map(|kind| (None, kind, name)),
                    _ => None,
                };
                let (length, kind, name) = property.ok_or_else(bad)?;
                let element = elements.last_mut().ok_or_else(bad)?;
                element.properties.push(Property {
                    name: name.to_owned(),
                    kind,
                    length,
                });
            }
            ["end_header"] => {
                let encoding = encoding.ok_or("its header has no format")?;
                return Ok((encoding, elements, rest));
            }
            ["comment" | "obj_info", ..] | [] => {}
            _ => return Err(bad()),
        }
    }
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "char" | "int8" => Self::I8,
            "uchar" | "uint8" => Self::U8,
            "short" | "int16" => Self::I16,
            "ushort" | "uint16" => Self::U16,
            "int" | "int32" => Self::I32,
            "uint" | "uint32" => Self::U32,
            "float" | "float32" => Self::F32,
            "double" | "float64" => Self::F64,
            _ => return None,
        })
    }

    fn width(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The number of so many bytes, the least significant first.
    fn number(self, bytes: [u8; 8]) -> f64 {
        let [a, b, c, d, ..] = bytes;
        match self {
            Self::I8 => f64::from(i8::from_le_bytes([a])),
            Self::U8 => f64::from(a),
            Self::I16 => f64::from(i16::from_le_bytes([a, b])),
            Self::U16 => f64::from(u16::from_le_bytes([a, b])),
            Self::I32 => f64::from(i32::from_le_bytes([a, b, c, d])),
            Self::U32 => f64::from(u32::from_le_bytes([a, b, c, d])),
            Self::F32 => f64::from(f32::from_le_bytes([a, b, c, d])),
            Self::F64 => f64::from_le_bytes(bytes),
        }
    }
}

/// What is left of the values of a file.
struct Values<'a> {
    encoding: Encoding,
    bytes: &'a [u8],
}

impl Values<'_> {
    fn next(&mut self, kind: Kind) -> Result<f64, String> {
        if self.encoding == Encoding::Text {
            return self.word();
        }
        let (value, rest) = self
            .bytes
            .split_at_checked(kind.width())
            .ok_or("it ends early,")?;
        self.bytes = rest;
        let mut bytes = [0u8; 8];
        bytes[..value.len()].copy_from_slice(value);
        if self.encoding == Encoding::Big {
            bytes[..value.len()].reverse();
        }
        Ok(kind.number(bytes))
    }

    fn word(&mut self) -> Result<f64, String> {
        let start = self.bytes.trim_ascii_start();
        let end = start.iter().position(u8::is_ascii_whitespace);
        let (word, rest) = start.split_at(end.unwrap_or(start.len()));
        self.bytes = rest;
        if word.is_empty() {
            return Err("it ends early,".to_owned());
        }
        let word = String::from_utf8_lossy(word);
        word.parse()
            .map_err(|_| format!("it has {word:?} for a number,"))
    }

    /// The length of a list.
    fn count(&mut self, kind: Kind) -> Result<usize, String> {
        let count = self.next(kind)?;
        let whole = count.fract() == 0. && (0. ..=f64::from(u32::MAX)).contains(&count);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number of its range"
        )]
        let number = count as usize;
        whole
            .then_some(number)
            .ok_or_else(|| format!("a list has {count} values"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "element vertex 2\ncomment any\nproperty float x\nproperty double y\n\
                        property short z\nproperty uchar red\nend_header\n";

    fn file(format: &str, before: &str, body: &[u8]) -> Vec<u8> {
        let head = format!("ply\nformat {format} 1.0\n{before}{HEAD}");
        [head.as_bytes(), body].concat()
    }

    fn binary(big: bool) -> Vec<u8> {
        let bytes = |little: &[u8]| match big {
            true => little.iter().rev().copied().collect(),
            false => little.to_vec(),
        };
        let vertex = |x: f32, y: f64, z: i16| {
            let parts = [
                bytes(&x.to_le_bytes()),
                bytes(&y.to_le_bytes()),
                bytes(&z.to_le_bytes()),
                vec![255],
            ];
            parts.concat()
        };
        [vertex(1., 2.5, -3), vertex(4., 5., 6)].concat()
    }

    #[test]
    fn text_and_both_orders_of_bytes_hold_the_same() {
        let wanted = [[1., 2.5, -3.], [4., 5., 6.]];
        let text = file("ascii", "", b"1 2.5 -3 255\n4 5 6 0\n");
        assert_eq!(points(&text).unwrap(), wanted);
        for (format, big) in [("binary_little_endian", false), ("binary_big_endian", true)] {
            assert_eq!(points(&file(format, "", &binary(big))).unwrap(), wanted);
        }
        // A list before the vertices.
        let lists = "element face 1\nproperty list uchar int vertex_indices\n";
        let text = file("ascii", lists, b"3 0 1 1\n1 2.5 -3 255\n4 5 6 0\n");
        assert_eq!(points(&text).unwrap(), wanted);
    }

    #[test]
    fn elements_without_properties_take_no_time() {
        let nothing = format!("element nothing {}\n", usize::MAX);
        let cloud = points(&file("ascii", &nothing, b"1 2.5 -3 255\n4 5 6 0\n"));
        assert_eq!(cloud.unwrap(), [[1., 2.5, -3.], [4., 5., 6.]]);
    }

    #[test]
    fn files_that_end_early_say_where() {
        let whole = file("binary_little_endian", "", &binary(false));
        let error = points(&whole[..whole.len() - 3]).unwrap_err();
        assert!(
            error.contains("ends early, after 1 of 2 vertices"),
            "{error}"
        );
        let error = points(&file("ascii", "", b"1 2 3 4\n5 x 6 7")).unwrap_err();
        assert!(
            error.contains("\"x\"") && error.contains("after 1 of 2"),
            "{error}"
        );
        for (text, part) in [
            ("off\n", "start with ply"),
            ("ply\nformat ascii 1.0\n", "end of its header"),
            ("ply\nend_header\n", "no format"),
            (
                "ply\nformat ascii 1.0\nproperty float x\n",
                "property float x",
            ),
            (
                "ply\nformat ascii 1.0\nelement face 0\nend_header\n",
                "no vertices",
            ),
            (
                "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n",
                "no y",
            ),
        ] {
            let error = points(text.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
