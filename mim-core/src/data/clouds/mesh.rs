//! Points on the triangles of a mesh.

/// Points spread over a mesh.
const POINTS: usize = 4096;
/// Fractions of the golden ratio's plane counterpart: a sequence that fills a square evenly (Roberts, 2018).
const STEPS: [f64; 2] = [0.754_877_666_246_692_7, 0.569_840_290_998_053_2];

/// Points spread evenly over triangles, always the same; none if they have no area.
pub(super) fn spread(vertices: &[[f32; 3]], triangles: &[[usize; 3]]) -> Option<Vec<[f32; 3]>> {
    let areas = triangles.iter().map(|corners| {
        let [a, b, c] = corners.map(|corner| vertices[corner].map(f64::from));
        area(a, b, c)
    });
    let mut sum = 0.;
    let sums: Vec<f64> = areas
        .map(|area| {
            sum += area;
            sum
        })
        .collect();
    if !sum.is_finite() || sum <= 0. {
        return None;
    }
    let points = (0..POINTS).map(|index| {
        let place = (index as f64 + 0.5) / POINTS as f64 * sum;
        let at = sums.partition_point(|end| *end < place);
        let corners = triangles[at.min(triangles.len() - 1)];
        let [u, v] = STEPS.map(|step| (0.5 + step * (index as f64 + 1.)).fract());
        let [a, b, c] = corners.map(|corner| vertices[corner].map(f64::from));
        let (near, far) = (1. - u.sqrt(), u.sqrt());
        #[expect(clippy::cast_possible_truncation, reason = "coordinates are f32")]
        let point = [0, 1, 2]
            .map(|axis| (near * a[axis] + far * ((1. - v) * b[axis] + v * c[axis])) as f32);
        point
    });
    Some(points.collect())
}

fn area(a: [f64; 3], b: [f64; 3], c: [f64; 3]) -> f64 {
    let side = |to: [f64; 3]| [0, 1, 2].map(|axis| to[axis] - a[axis]);
    let (p, q) = (side(b), side(c));
    let cross = [
        p[1] * q[2] - p[2] * q[1],
        p[2] * q[0] - p[0] * q[2],
        p[0] * q[1] - p[1] * q[0],
    ];
    cross.iter().map(|value| value * value).sum::<f64>().sqrt() / 2.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_triangles_have_more_points() {
        let vertices = [[0f32, 0., 0.], [1., 0., 0.], [0., 1., 0.], [0., -3., 0.]];
        let points = spread(&vertices, &[[0, 1, 2], [0, 1, 3]]).unwrap();
        let upper = points.iter().filter(|point| point[1] > 0.).count();
        assert!(upper.abs_diff(POINTS / 4) < 40, "{upper}");
        assert!(points.iter().all(|point| point[0] >= 0. && point[2] == 0.));
        let mean = points.iter().map(|point| point[0]).sum::<f32>() / POINTS as f32;
        assert!((mean - 1. / 3.).abs() < 0.01, "{mean}");
        assert!(spread(&vertices, &[[0, 0, 1]]).is_none());
    }
}
