//! Labels that are written as text.

use std::collections::{BTreeMap, BTreeSet};

/// Names that columns of labels usually have.
pub(super) const LABEL_COLUMNS: [&str; 8] = [
    "label",
    "labels",
    "fine_label",
    "class",
    "class_name",
    "target",
    "category",
    "cls",
];

/// The distinct texts as classes: in the order of numbers if all are whole numbers, else in that of text.
pub(super) fn classes<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let distinct: BTreeSet<&str> = texts.into_iter().collect();
    let mut classes: Vec<String> = distinct.into_iter().map(str::to_owned).collect();
    let number = |text: &String| text.parse::<i64>().ok();
    if classes.iter().all(|text| number(text).is_some()) {
        classes.sort_by_key(number);
    }
    classes
}

/// The class of each text among `classes`; none where it is not among them.
pub(super) fn among<'a>(
    classes: &[String],
    texts: impl IntoIterator<Item = &'a str>,
) -> Vec<Option<u32>> {
    let places = classes.iter().zip(0..);
    let places: BTreeMap<&str, u32> = places.map(|(name, place)| (name.as_str(), place)).collect();
    let texts = texts.into_iter();
    texts.map(|text| places.get(text).copied()).collect()
}

/// Up to `most` of some names, and how many more there are.
pub(super) fn some_of<T: AsRef<str>>(names: &[T], most: usize) -> String {
    let shown: Vec<&str> = names.iter().take(most).map(AsRef::as_ref).collect();
    let shown = shown.join(", ");
    match names.len().checked_sub(most) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_the_order_of_numbers() {
        assert_eq!(classes(["10", "9", "10"]), ["9", "10"]);
        assert_eq!(classes(["10", "9", "b"]), ["10", "9", "b"]);
        let names = classes(["dog", "cat"]);
        assert_eq!(
            among(&names, ["dog", "cow", "cat"]),
            [Some(1), None, Some(0)]
        );
        assert_eq!(some_of(&["a", "b", "c"], 2), "a, b and 1 more");
    }
}
