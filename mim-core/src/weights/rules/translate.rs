//! Applies rules to weights.

use candle_core::{DType, Tensor};

use super::{Holes, Rule, fill, matches};
use crate::weights::WeightMap;
use crate::{Error, Result};

/// Translates `theirs` to our names. Names without a rule are kept; loading reports them.
///
/// # Errors
///
/// [`Error::Unsupported`] if a stack is incomplete, or a shape does not match its rule.
pub(in crate::weights) fn import(rules: &[Rule], theirs: &WeightMap) -> Result<WeightMap> {
    let mut ours = WeightMap::default();
    for (name, tensor) in theirs.iter() {
        let found = rules
            .iter()
            .find_map(|rule| import_one(rule, name, tensor, theirs));
        if let Some((name, tensor)) =
            found.unwrap_or_else(|| Ok(Some((name.to_owned(), tensor.clone()))))?
        {
            ours.insert(name, tensor);
        }
    }
    Ok(ours)
}

/// Applies one rule to one tensor: `None` if it does not apply, `Ok(None)` if it consumes the tensor without output.
fn import_one(
    rule: &Rule,
    name: &str,
    tensor: &Tensor,
    all: &WeightMap,
) -> Option<Result<Option<(String, Tensor)>>> {
    match rule {
        Rule::Rename { theirs, ours } => {
            matches(theirs, name).map(|holes| Ok(Some((fill(ours, &holes), tensor.clone()))))
        }
        Rule::Conv1x1 { theirs, ours } => matches(theirs, name).map(|holes| {
            Ok(Some((
                fill(ours, &holes),
                one_tap(name, tensor, "[out, in, 1, 1]", 4)?,
            )))
        }),
        Rule::Pointwise { theirs, ours } => matches(theirs, name).map(|holes| {
            Ok(Some((
                fill(ours, &holes),
                one_tap(name, tensor, "[out, in, 1]", 3)?,
            )))
        }),
        Rule::Transpose { theirs, ours } => matches(theirs, name)
            .map(|holes| Ok(Some((fill(ours, &holes), tensor.t()?.contiguous()?)))),
        Rule::Unsqueeze { theirs, ours, axes } => matches(theirs, name).map(|holes| {
            let shape = [&vec![1; *axes], tensor.dims()].concat();
            Ok(Some((fill(ours, &holes), tensor.reshape(shape)?)))
        }),
        Rule::Positions { theirs, ours } => matches(theirs, name).map(|holes| {
            let (one, rows, cols, dim) = tensor.dims4()?;
            let patches = tensor.reshape((one, rows * cols, dim))?;
            let class = Tensor::zeros((one, 1, dim), tensor.dtype(), tensor.device())?;
            Ok(Some((
                fill(ours, &holes),
                Tensor::cat(&[class, patches], 1)?,
            )))
        }),
        Rule::Stack { theirs, ours } => {
            let (place, holes) = theirs
                .iter()
                .enumerate()
                .find_map(|(place, pattern)| Some((place, matches(pattern, name)?)))?;
            // The first part of a stack brings in the others.
            (place == 0 || all.get(&fill(&theirs[0], &holes)).is_some())
                .then(|| stack(theirs, ours, &holes, all, place == 0))
                .or_else(|| Some(Err(incomplete(&fill(&theirs[0], &holes), name))))
        }
        Rule::Alias { theirs, of } => {
            name.strip_prefix(theirs.as_str())?.strip_prefix('.')?;
            match same_module(theirs, of, all) {
                Ok(true) => Some(Ok(None)),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            }
        }
        Rule::Ignore { theirs } => matches(theirs, name).map(|_| Ok(None)),
    }
}

/// The matrix of a one-tap convolution, a tensor with `axes` axes.
fn one_tap(name: &str, tensor: &Tensor, expected: &'static str, axes: usize) -> Result<Tensor> {
    match tensor.dims() {
        [out, inputs, taps @ ..]
            if taps.len() + 2 == axes && taps.iter().all(|taps| *taps == 1) =>
        {
            Ok(tensor.reshape((*out, *inputs))?)
        }
        dims => {
            let fix = "check the name of the source";
            Err(Error::shape(name.to_owned(), expected, dims, fix))
        }
    }
}

/// Whether all tensors under `theirs` equal those under `of`.
fn same_module(theirs: &str, of: &str, all: &WeightMap) -> Result<bool> {
    let values = |xs: &Tensor| -> Result<Vec<f64>> {
        Ok(xs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
    };
    for (name, tensor) in all.strip_prefix(&format!("{theirs}.")).iter() {
        let same = match all.get(&format!("{of}.{name}")) {
            Some(other) => tensor.dims() == other.dims() && values(tensor)? == values(other)?,
            None => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn incomplete(missing: &str, present: &str) -> Error {
    Error::unsupported(
        format!("stacking `{present}` without `{missing}`"),
        "all parts of a stack are needed",
        "use the complete weights",
    )
}

fn stack(
    theirs: &[String],
    ours: &str,
    holes: &Holes<'_>,
    all: &WeightMap,
    first: bool,
) -> Result<Option<(String, Tensor)>> {
    if !first {
        return Ok(None);
    }
    let part = |pattern: &String| {
        let name = fill(pattern, holes);
        all.get(&name)
            .cloned()
            .ok_or_else(|| incomplete(&name, &fill(&theirs[0], holes)))
    };
    let parts = theirs.iter().map(part).collect::<Result<Vec<_>>>()?;
    Ok(Some((fill(ours, holes), Tensor::cat(&parts, 0)?)))
}

/// Translates `ours` to their names, by the first matching rule for each.
///
/// # Errors
///
/// [`Error::Shape`] if a stack cannot be split evenly.
pub(in crate::weights) fn export(rules: &[Rule], ours: &WeightMap) -> Result<WeightMap> {
    let mut theirs = WeightMap::default();
    for (name, tensor) in ours.iter() {
        let found = rules.iter().find_map(|rule| export_one(rule, name, tensor));
        for (name, tensor) in
            found.unwrap_or_else(|| Ok(vec![(name.to_owned(), tensor.clone())]))?
        {
            theirs.insert(name, tensor);
        }
    }
    Ok(theirs)
}

fn export_one(rule: &Rule, name: &str, tensor: &Tensor) -> Option<Result<Vec<(String, Tensor)>>> {
    match rule {
        Rule::Rename { theirs, ours } => {
            matches(ours, name).map(|holes| Ok(vec![(fill(theirs, &holes), tensor.clone())]))
        }
        Rule::Conv1x1 { theirs, ours } => matches(ours, name).map(|holes| {
            let (out, inputs) = tensor.dims2()?;
            Ok(vec![(
                fill(theirs, &holes),
                tensor.reshape((out, inputs, 1, 1))?,
            )])
        }),
        Rule::Pointwise { theirs, ours } => {
            matches(ours, name).map(|holes| Ok(vec![(fill(theirs, &holes), tensor.unsqueeze(2)?)]))
        }
        Rule::Transpose { theirs, ours } => matches(ours, name)
            .map(|holes| Ok(vec![(fill(theirs, &holes), tensor.t()?.contiguous()?)])),
        Rule::Unsqueeze { theirs, ours, axes } => matches(ours, name).map(|holes| {
            let shape = tensor.dims().get(*axes..).unwrap_or_default();
            Ok(vec![(fill(theirs, &holes), tensor.reshape(shape)?)])
        }),
        Rule::Positions { theirs, ours } => matches(ours, name).map(|holes| {
            let (one, rows, dim) = tensor.dims3()?;
            let side = rows.saturating_sub(1).isqrt();
            if side == 0 || side * side + 1 != rows {
                return Err(Error::shape(
                    name.to_owned(),
                    "positions of a square grid, after that of the class token",
                    tensor.dims(),
                    "export with the names of another source",
                ));
            }
            let patches = tensor.narrow(1, 1, rows - 1)?;
            let patches = patches.reshape((one, side, side, dim))?;
            Ok(vec![(fill(theirs, &holes), patches)])
        }),
        Rule::Stack { theirs, ours } => matches(ours, name).map(|holes| {
            let parts = tensor.chunk(theirs.len(), 0)?;
            if parts.len() != theirs.len()
                || parts.iter().any(|part| part.dims() != parts[0].dims())
            {
                let expected = format!("a first axis that is a multiple of {}", theirs.len());
                return Err(Error::shape(
                    name.to_owned(),
                    expected,
                    tensor.dims(),
                    "check the name of the source",
                ));
            }
            Ok(theirs
                .iter()
                .map(|pattern| fill(pattern, &holes))
                .zip(parts)
                .collect())
        }),
        Rule::Ignore { .. } | Rule::Alias { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn rules() -> Vec<Rule> {
        vec![
            Rule::ignore("*.index"),
            Rule::stack(
                ["q", "k"].map(|part| format!("layer.{{i}}.{part}.{{p}}")),
                "blocks.{i}.qk.{p}",
            ),
            Rule::conv1x1("head.0.weight", "pred.weight"),
            Rule::pointwise("point.0.weight", "point.weight"),
            Rule::transpose("proj", "proj.weight"),
            Rule::unsqueeze("cls", "cls_token", 2),
            Rule::ignore("text.*"),
            Rule::rename("layer.{i}.norm.{p}", "blocks.{i}.norm1.{p}"),
        ]
    }

    fn map(names: &[(&str, &[usize])]) -> WeightMap {
        let zeros =
            |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
        names
            .iter()
            .map(|(name, shape)| ((*name).to_owned(), zeros(shape)))
            .collect()
    }

    #[test]
    fn rules_work_in_both_directions() {
        let theirs = map(&[
            ("layer.7.q.weight", &[2, 3]),
            ("layer.7.k.weight", &[2, 3]),
            ("layer.7.norm.bias", &[2]),
            ("head.0.weight", &[4, 2, 1, 1]),
            ("point.0.weight", &[4, 3, 1]),
            ("proj", &[3, 5]),
            ("cls", &[6]),
        ]);
        let ours = import(&rules(), &theirs).unwrap();
        let shapes: Vec<_> = ours
            .iter()
            .map(|(name, tensor)| (name, tensor.dims()))
            .collect();
        assert_eq!(
            shapes,
            [
                ("blocks.7.norm1.bias", &[2][..]),
                ("blocks.7.qk.weight", &[4, 3][..]),
                ("cls_token", &[1, 1, 6][..]),
                ("point.weight", &[4, 3][..]),
                ("pred.weight", &[4, 2][..]),
                ("proj.weight", &[5, 3][..])
            ]
        );
        let back = export(&rules(), &ours).unwrap();
        let all = |map: &WeightMap| -> Vec<(String, Vec<usize>)> {
            map.iter()
                .map(|(name, tensor)| (name.to_owned(), tensor.dims().to_vec()))
                .collect()
        };
        assert_eq!(all(&back), all(&theirs));
    }

    #[test]
    fn buffers_are_ignored_and_unknown_names_kept() {
        let ours = import(
            &rules(),
            &map(&[("a.b.index", &[1]), ("text.a.b", &[1]), ("other", &[1])]),
        )
        .unwrap();
        assert_eq!(ours.names().collect::<Vec<_>>(), ["other"]);
    }

    #[test]
    fn an_alias_is_skipped_only_if_its_tensors_are_equal() {
        let rules = [
            Rule::alias("head.b", "head.a"),
            Rule::unsqueeze("token", "mask_token", 1),
        ];
        let mut theirs = map(&[("head.a.g", &[2]), ("head.b.g", &[2]), ("token", &[1, 3])]);
        let names = |theirs: &WeightMap| {
            let ours = import(&rules, theirs).unwrap();
            ours.names().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(names(&theirs), ["head.a.g", "mask_token"]);
        let ours = import(&rules, &theirs).unwrap();
        assert_eq!(ours.get("mask_token").unwrap().dims(), [1, 1, 3]);
        let back = export(&rules, &ours).unwrap();
        assert_eq!(back.get("token").unwrap().dims(), [1, 3]);
        // Equal in one tensor, but not in all.
        for (name, value) in [("head.a.v", 1f32), ("head.b.v", 2.)] {
            theirs.insert(name, Tensor::new(&[value], &Device::Cpu).unwrap());
        }
        assert_eq!(names(&theirs).len(), 5);
    }

    #[test]
    fn an_incomplete_stack_is_an_error() {
        for name in ["layer.0.k.weight", "layer.0.q.weight"] {
            let error = import(&rules(), &map(&[(name, &[2, 3])]))
                .unwrap_err()
                .to_string();
            assert!(error.contains("all parts"), "{error}");
        }
    }
}
