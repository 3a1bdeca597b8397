//! Defaults for methods on point clouds, instead of those for images.

use mim_core::augment::ViewPlan;
use mim_core::data::DataSource;
use mim_core::{Result, settings};
use toml::{Table, Value};

/// Sets the default data to analytic shapes, and the evaluation views to the encoder's number of points.
pub(super) fn complete(model: &Table, data: &mut Table, eval: &mut Table) -> Result<()> {
    data.entry("source")
        .or_insert_with(|| DataSource::Shapes.to_string().into());
    let encoder = model.get("encoder");
    let count = encoder.and_then(|encoder| encoder.get("num_points"));
    let count = count.and_then(Value::as_integer);
    if let (Some(count), None) = (count, eval.get("views")) {
        let plan = ViewPlan::points(usize::try_from(count).unwrap_or(0));
        eval.insert("views".to_owned(), settings::to_table(&plan)?.into());
    }
    Ok(())
}
