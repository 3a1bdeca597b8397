//! Names of many shards written as one: `train-{000..146}.tar`.

/// Names that one pattern may stand for.
const MOST: usize = 1_000_000;

/// The names of a pattern: `{a..b}` counts, with as many digits as are written; `{a,b}` lists.
///
/// # Errors
///
/// What cannot be read.
pub(super) fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let Some(open) = pattern.find('{') else {
        return Ok(vec![pattern.to_owned()]);
    };
    let Some(close) = pattern[open..].find('}').map(|close| open + close) else {
        return Err("has a { without its }".to_owned());
    };
    let (before, inside, after) = (
        &pattern[..open],
        &pattern[open + 1..close],
        &pattern[close + 1..],
    );
    let ends = expand(after)?;
    let middles = choices(inside)?;
    if middles.len().saturating_mul(ends.len()) > MOST {
        return Err(format!("stands for more than {MOST} files"));
    }
    let names = middles.iter().flat_map(|middle| {
        let name = move |end: &String| format!("{before}{middle}{end}");
        ends.iter().map(name)
    });
    Ok(names.collect())
}

fn choices(inside: &str) -> Result<Vec<String>, String> {
    let Some((first, last)) = inside.split_once("..") else {
        return Ok(inside.split(',').map(str::to_owned).collect());
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse::<usize>().ok()).flatten();
        number.ok_or_else(|| format!("{{{inside}}} does not count from a number to a number"))
    };
    let (from, to) = (number(first)?, number(last)?);
    if to < from || to - from >= MOST {
        return Err(format!(
            "{{{inside}}} does not count up, or further than {MOST}"
        ));
    }
    let digits = match first.starts_with('0') || first.len() == last.len() {
        true => first.len(),
        false => 1,
    };
    Ok((from..=to)
        .map(|number| format!("{number:0digits$}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_count_and_list() {
        assert_eq!(expand("a.tar").unwrap(), ["a.tar"]);
        assert_eq!(
            expand("a-{08..10}.tar").unwrap(),
            ["a-08.tar", "a-09.tar", "a-10.tar"]
        );
        assert_eq!(expand("{9..10}").unwrap(), ["9", "10"]);
        let both = expand("{train,val}-{0..1}").unwrap();
        assert_eq!(both, ["train-0", "train-1", "val-0", "val-1"]);
        for wrong in ["{0..", "{0..x}", "{3..1}", "{0..9999999}"] {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
    }
}
