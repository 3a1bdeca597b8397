//! Finding golden cases.

use std::fs;
use std::path::{Path, PathBuf};

use mim_core::{Error, Result};

use super::Case;

/// All cases at `path`: a case, or all in a folder and below it. JSON objects without a `kind` are not cases.
///
/// # Errors
///
/// If there is no case, or a case or a JSON file cannot be read.
pub fn find(path: &Path) -> Result<Vec<Case>> {
    if path.is_file() {
        return Ok(vec![Case::read(path)?]);
    }
    let mut files = Vec::new();
    walk(path, &mut files)?;
    files.sort();
    let mut cases = Vec::new();
    for file in &files {
        if is_case(file)? {
            cases.push(Case::read(file)?);
        }
    }
    if cases.is_empty() {
        return Err(Error::format(
            path,
            "there is no golden case in this folder",
            "give a case or a folder of cases",
        ));
    }
    Ok(cases)
}

/// Whether a JSON file says that it is a case.
fn is_case(path: &Path) -> Result<bool> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
        let what = format!("this is not JSON ({error})");
        Error::format(path, what, "correct it, or remove it from the folder")
    })?;
    Ok(json.get("kind").is_some())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    Ok(())
}
