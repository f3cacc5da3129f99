//! What people see of the gateway's own errors.

use crate::config::{
    checked::ErrorPage,
    decode::{At, Cx},
    diagnostic::Code,
    raw::RawGateway,
    values::ErrorStatuses,
};

/// The largest page, in bytes: it is held in memory, and sent with each refusal to a browser.
const MOST: usize = 256 << 10;

pub(super) fn pages(raw: &RawGateway, cx: &mut Cx) -> Vec<ErrorPage> {
    let Some(named) = raw.errors.as_ref().and_then(|errors| errors.value.pages.as_ref()) else {
        return Vec::new();
    };
    if named.value.0.is_empty() && named.value.1 {
        cx.error(Code::Value, named.span, "no page")
            .help("write `pages: {503: pages/busy.html}`, or take `errors` away");
    }
    let mut said = Vec::<&At<ErrorStatuses>>::new();
    let mut pages = Vec::new();
    for (statuses, file) in &named.value.0 {
        if let Some(same) = said.iter().find(|same| same.value == statuses.value) {
            let place = cx.place(same.span);
            cx.error(Code::Duplicate, statuses.span, "these statuses have a page already")
                .related(place, "the first")
                .help("keep one of them");
        }
        said.push(statuses);
        pages.extend(file.as_ref().and_then(|file| page(statuses, file, cx)));
    }
    pages
}

fn page(statuses: &At<ErrorStatuses>, file: &str, cx: &mut Cx) -> Option<ErrorPage> {
    let at = statuses.span;
    let ending = file.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let content_type = match ending.as_deref() {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("txt") => "text/plain; charset=utf-8",
        _ => {
            cx.error(Code::Value, at, format!("`{file}` is neither a page nor a text"))
                .help("name a file that ends in `.html` or `.txt`");
            return None;
        }
    };
    let body = cx.document(at, file)?;
    let wrong = if body.is_empty() {
        "is empty".to_owned()
    } else if body.len() > MOST {
        format!("has {} bytes, more than {} KiB", body.len(), MOST >> 10)
    } else if std::str::from_utf8(&body).is_err() {
        "is not UTF-8".to_owned()
    } else {
        let ErrorStatuses(first, last) = statuses.value;
        return Some(ErrorPage { first, last, content_type, body });
    };
    cx.error(Code::File, at, format!("`{file}` {wrong}"))
        .help("a page is text in UTF-8 that stands by itself: put large images elsewhere");
    None
}
