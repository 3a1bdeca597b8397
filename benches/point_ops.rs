//! Each op on point clouds, against the same computation in plain candle operations.
//!
//! `cargo bench --bench point_ops`; a name filters, e.g. `-- nearest`. Ids give op, version and shape: 32 clouds of 2048
//! points, 512 groups of 16 points, as on the first level of Point-M2AE. Two threads:
//! `RAYON_NUM_THREADS=2 cargo bench --bench point_ops`.

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

mod common;

use candle_core::{DType, Result, Tensor};
use common::{Op, brief, compare, fused, time, values};
use criterion::{Criterion, criterion_group, criterion_main};
use mim_core::ops;
use mim_core::points::{DepthMaps, DepthMapsConfig};

const CLOUDS: usize = 32;
const POINTS: usize = 2048;
const GROUPS: usize = 512;
const MEMBERS: usize = 16;
/// Groups for the plain version of sampling, which takes a quarter of a second per hundred groups.
const FEW: usize = 32;

/// Squared distances `[batch, queries, points]`.
fn distances(queries: &Tensor, points: &Tensor) -> Result<Tensor> {
    let apart = queries.unsqueeze(2)?.broadcast_sub(&points.unsqueeze(1)?)?;
    apart.sqr()?.sum(3)
}

/// Farthest point sampling, one point of all clouds at a time.
fn plain_farthest(points: &Tensor, count: usize) -> Result<Tensor> {
    let (batch, size, _) = points.dims3()?;
    let device = points.device();
    let mut nearest = Tensor::full(1e10f32, (batch, size), device)?;
    let mut ids = vec![Tensor::zeros((batch, 1), DType::U32, device)?];
    for _ in 1..count {
        let last = ids.last().expect("the first is there").unsqueeze(2)?;
        let last = last.broadcast_as((batch, 1, 3))?.contiguous()?;
        let last = points.contiguous()?.gather(&last, 1)?;
        nearest = nearest.minimum(&distances(&last, points)?.squeeze(1)?)?;
        ids.push(nearest.argmax_keepdim(1)?);
    }
    Tensor::cat(&ids, 1)
}

fn sampling(c: &mut Criterion) {
    let points = values(&[CLOUDS, POINTS, 3]);
    let mut group = c.benchmark_group("ops/farthest_points");
    time(
        &mut group,
        &format!("fused/{CLOUDS}x{POINTS}_{GROUPS}"),
        || Ok(ops::farthest_points(&points, GROUPS, -1.)?),
    );
    let ids = |xs: &Tensor| xs.to_vec2::<u32>().expect("ids");
    let ours = ops::farthest_points(&points, FEW, -1.).expect("enough points");
    let plain = plain_farthest(&points, FEW).expect("enough points");
    assert_eq!(ids(&ours), ids(&plain));
    time(
        &mut group,
        &format!("fused/{CLOUDS}x{POINTS}_{FEW}"),
        || Ok(ops::farthest_points(&points, FEW, -1.)?),
    );
    time(
        &mut group,
        &format!("plain/{CLOUDS}x{POINTS}_{FEW}"),
        || Ok(plain_farthest(&points, FEW)?),
    );
}

fn neighbours(c: &mut Criterion) {
    let points = values(&[CLOUDS, POINTS, 3]);
    let queries = points.narrow(1, 0, GROUPS).expect("enough points");
    let queries = queries.contiguous().expect("enough memory");
    let plain = || -> Result<Tensor> {
        let sorted = distances(&queries, &points)?.arg_sort_last_dim(true)?;
        sorted.narrow(2, 0, MEMBERS)?.contiguous()
    };
    let ids = |xs: &Tensor| xs.to_vec3::<u32>().expect("ids");
    let ours = ops::nearest_points(&queries, &points, MEMBERS).expect("enough points");
    assert_eq!(ids(&ours), ids(&plain().expect("enough points")));
    let mut group = c.benchmark_group("ops/nearest_points");
    let shape = format!("{CLOUDS}x{POINTS}_{GROUPS}x{MEMBERS}");
    time(&mut group, &format!("fused/{shape}"), || {
        Ok(ops::nearest_points(&queries, &points, MEMBERS)?)
    });
    time(&mut group, &format!("plain/{shape}"), || Ok(plain()?));
}

fn largest(c: &mut Criterion) {
    let groups = [values(&[CLOUDS * 64, MEMBERS, 128])];
    let versions: [Op; 2] = [&|t| fused(ops::group_max(&t[0])), &|t| {
        let first = t[0].detach().argmax_keepdim(1)?;
        t[0].gather(&first, 1)?.squeeze(1)
    }];
    compare(c, "group_max", "2048x16x128", &groups, versions);
}

fn depth_maps(c: &mut Criterion) {
    let points = values(&[CLOUDS, POINTS, 3]);
    let config = DepthMapsConfig::default();
    let mut group = c.benchmark_group("ops/depth_maps");
    time(&mut group, &format!("fused/{CLOUDS}x{POINTS}"), || {
        DepthMaps::new(&points, &config)
    });
}

criterion_group! {
    name = benches;
    config = brief();
    targets = sampling, neighbours, largest, depth_maps
}
criterion_main!(benches);
