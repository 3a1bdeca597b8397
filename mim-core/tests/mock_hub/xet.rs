//! A Hub that keeps its files in Xet: each in an object of its own, as one chunk. Who knows nothing of Xet is led to the
//! whole file.

use super::{COMMIT, Reply, Repository, Request};

/// The token that Xet wants to see; the Hub's own is not for it.
pub(crate) const TOKEN: &str = "for-xet";

/// What such a Hub answers.
pub(crate) fn answer(repository: &Repository, request: &Request) -> Reply {
    let at = format!("http://{}", request.host);
    let parts: Vec<&str> = request.path.split('/').skip(1).collect();
    match parts[..] {
        ["api", .., "xet-read-token", COMMIT] => Reply::new(
            200,
            format!(r#"{{"accessToken":"{TOKEN}","exp":9999999999,"casUrl":"{at}/xet"}}"#),
        ),
        ["xet", "v1", "reconstructions", id] => recipe(repository, id, request, &at),
        ["xet", ..] => Reply::new(404, ""),
        ["chunk", id] => Reply::new(206, chunk(file(repository, id))),
        [_, _, "resolve", ..] => {
            let whole = Request {
                start: None,
                ..request.clone()
            };
            let reply = repository.answer(&whole);
            let Some((_, id)) = reply.headers.iter().find(|(name, _)| *name == "ETag") else {
                return reply;
            };
            let id = id.trim_matches('"');
            Reply::new(302, "")
                .with("Location", format!("{at}/storage{}", request.path))
                .with("X-Repo-Commit", COMMIT)
                .with("X-Linked-ETag", format!("\"{id}\""))
                .with("X-Linked-Size", reply.body.len())
                .with("X-Xet-Hash", id)
        }
        _ => repository.answer(request),
    }
}

/// The file with this hash, which is its name in Xet, too.
fn file<'a>(repository: &'a Repository, id: &str) -> &'a [u8] {
    let found = repository.0.values().find(|(_, etag)| etag == id);
    &found.unwrap().0
}

/// What a file is made of, from the first byte wanted on.
fn recipe(repository: &Repository, id: &str, request: &Request, at: &str) -> Reply {
    let bytes = file(repository, id);
    let (size, start) = (bytes.len(), request.start.unwrap_or(0));
    if start >= size {
        return Reply::new(416, "");
    }
    let last = chunk(bytes).len() - 1;
    let chunks = r#""range":{"start":0,"end":1}"#;
    Reply::new(
        200,
        format!(
            r#"{{"offset_into_first_range":{start},"terms":[{{"hash":"{id}","unpacked_length":{size},{chunks}}}],
            "fetch_info":{{"{id}":[{{{chunks},"url":"{at}/chunk/{id}","url_range":{{"start":0,"end":{last}}}}}]}}}}"#
        ),
    )
}

/// Version, length, no compression, length again, and the bytes.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let mut chunk = vec![0, length[0], length[1], length[2], 0];
    chunk.extend(&length[..3]);
    chunk.extend(bytes);
    chunk
}
