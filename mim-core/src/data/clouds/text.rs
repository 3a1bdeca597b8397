//! Points as lines of numbers.

use super::point;

/// The points of an `.xyz` file.
pub(super) fn points(bytes: &[u8]) -> Result<Vec<[f32; 3]>, String> {
    let text = str::from_utf8(bytes).map_err(|error| format!("it is no text: {error}"))?;
    let lines = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    });
    lines.map(|(index, line)| point(line, index + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_hold_three_numbers_or_more() {
        let text = b"# x y z\n1 2.5 -3e-1\n\n4,5, 6, 0.1\n";
        assert_eq!(points(text).unwrap(), [[1., 2.5, -0.3], [4., 5., 6.]]);
        assert!(points(b"1 2 x").unwrap_err().contains("line 1"));
        assert!(points(&[0xff, 0xfe]).unwrap_err().contains("no text"));
    }
}
