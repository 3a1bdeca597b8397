//! Meshes in the Object File Format.

use super::{mesh, point};

/// Points spread over the faces of an `.off` file, or its vertices where it has none.
pub(super) fn points(bytes: &[u8]) -> Result<Vec<[f32; 3]>, String> {
    let text = str::from_utf8(bytes).map_err(|error| format!("it is no text: {error}"))?;
    let mut lines = text.lines().enumerate().filter_map(|(index, line)| {
        let line = line.split('#').next().unwrap_or_default().trim();
        (!line.is_empty()).then_some((index + 1, line))
    });
    let (_, head) = lines.next().ok_or("it is empty")?;
    let rest = head
        .strip_prefix("OFF")
        .ok_or("it does not start with OFF")?
        .trim();
    // Files of ModelNet have the counts in the first line.
    let counts = match rest {
        "" => lines.next().ok_or("it ends before its counts")?.1,
        counts => counts,
    };
    let mut counts = counts.split_whitespace().map(str::parse::<usize>);
    let (Some(Ok(vertices)), Some(Ok(faces))) = (counts.next(), counts.next()) else {
        return Err("its numbers of vertices and faces are missing".to_owned());
    };
    let mut corners = Vec::new();
    for found in 0..vertices {
        let ended = || format!("it ends after {found} of {vertices} vertices");
        let (number, line) = lines.next().ok_or_else(ended)?;
        corners.push(point(line, number)?);
    }
    let mut triangles = Vec::new();
    for found in 0..faces {
        let ended = || format!("it ends after {found} of {faces} faces");
        let (number, line) = lines.next().ok_or_else(ended)?;
        let face = face(line, vertices).ok_or_else(|| format!("line {number} is no face"))?;
        for pair in face.get(1..).unwrap_or_default().windows(2) {
            triangles.push([face[0], pair[0], pair[1]]);
        }
    }
    Ok(mesh::spread(&corners, &triangles).unwrap_or(corners))
}

/// The corners of a face, each one of `vertices`.
fn face(line: &str, vertices: usize) -> Option<Vec<usize>> {
    let mut words = line.split_whitespace();
    let count: usize = words.next()?.parse().ok()?;
    let corners: Option<Vec<usize>> = words
        .take(count)
        .map(|word| word.parse().ok().filter(|corner| *corner < vertices))
        .collect();
    corners.filter(|corners| corners.len() == count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faces_are_covered_and_vertices_are_points_without_them() {
        let square = "OFF4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n";
        let cloud = points(square.as_bytes()).unwrap();
        assert_eq!(cloud.len(), 4096);
        assert!(cloud.iter().any(|p| p[0] > 0.9 && p[1] < 0.1));
        assert!(cloud.iter().any(|p| p[0] < 0.1 && p[1] > 0.9));
        let plain = "OFF\n# two\n2 0 0\n0 0 0\n1 2 3\n";
        assert_eq!(points(plain.as_bytes()).unwrap(), [[0.; 3], [1., 2., 3.]]);
    }

    #[test]
    fn files_that_end_early_say_where() {
        for (text, part) in [
            ("", "empty"),
            ("PLY", "OFF"),
            ("OFF", "counts"),
            ("OFF\n2 x", "numbers of vertices"),
            ("OFF\n2 0 0\n1 2 3", "after 1 of 2 vertices"),
            ("OFF\n1 1 0\n1 2 3", "after 0 of 1 faces"),
            ("OFF\n1 1 0\n1 2 3\n3 0 1 2", "line 4 is no face"),
        ] {
            let error = points(text.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
