//! Point clouds from folders, through the loader, to views.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::Path;

use mim_core::augment::ViewPlan;
use mim_core::data::{DataSource, Loader, LoaderConfig, Split};
use mim_core::{Norm, Result};

/// Points on a line, as text.
fn line(points: usize, slope: f32) -> String {
    let point = |at: usize| format!("{at} {} {}\n", at as f32 * slope, at * at);
    (0..points).map(point).collect()
}

/// Two classes of two clouds each, of different kinds of files.
fn folder(root: &Path) {
    for class in ["a", "b"] {
        fs::create_dir_all(root.join("train").join(class)).unwrap();
    }
    let write = |name: &str, text: String| fs::write(root.join("train").join(name), text).unwrap();
    write("a/1.xyz", line(20, 1.));
    write("a/2.XYZ", line(30, 2.));
    let head = "ply\nformat ascii 1.0\nelement vertex 12\nproperty float x\nproperty float y\n\
                property float z\nend_header\n";
    write("b/1.ply", head.to_owned() + &line(12, 3.));
    write(
        "b/2.off",
        "OFF\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n".to_owned(),
    );
}

fn loader(root: &Path, plan: ViewPlan) -> Loader {
    let source: DataSource = root.to_str().unwrap().parse().unwrap();
    let loading = LoaderConfig {
        batch_size: 4,
        workers: 1,
        max_bad_share: 0.,
        ..LoaderConfig::default()
    };
    Loader::new(source.open(Split::Train).unwrap(), plan, loading, 3).unwrap()
}

fn points(root: &Path, plan: ViewPlan) -> Result<Vec<Vec<Vec<f32>>>> {
    let batch = loader(root, plan).epoch(0, 0)?.next().unwrap()?;
    let view = batch.view(0)?;
    assert!(view.is_of_points() && view.unit().is_err() && view.crops.is_empty());
    let points = view.normalized(&Norm::uniform(0., 1., 3))?;
    Ok(points.to_vec3()?)
}

#[test]
fn files_of_all_kinds_become_clouds_of_one_size() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path());
    let data = loader(root.path(), ViewPlan::points(10)).dataset().clone();
    assert_eq!((data.len(), data.classes()), (4, 2));
    assert_eq!(data.class_names(), ["a", "b"]);
    let clouds = points(root.path(), ViewPlan::scaled_points(10)).unwrap();
    assert_eq!((clouds.len(), clouds[0].len()), (4, 10));
    assert_eq!(
        clouds,
        points(root.path(), ViewPlan::scaled_points(10)).unwrap()
    );
}

#[test]
fn clouds_that_do_not_fit_are_named_with_their_file() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path());
    let error = points(root.path(), ViewPlan::points(15)).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("1.ply") && error.contains("at least 15 points"),
        "{error}"
    );
    let error = points(root.path(), ViewPlan::mae(8))
        .unwrap_err()
        .to_string();
    assert!(error.contains("the data are point clouds"), "{error}");
    fs::write(root.path().join("train/a/1.xyz"), "1 2 3\n4 nan 6\n").unwrap();
    let error = points(root.path(), ViewPlan::points(10))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("1.xyz") && error.contains("not finite"),
        "{error}"
    );
    let images: DataSource = format!("folder:{}", root.path().display()).parse().unwrap();
    let error = images.open(Split::Train).unwrap_err().to_string();
    assert!(error.contains("holds no images"), "{error}");
}
