//! A page that shows a table and refreshes itself.

use axum::response::Html;

/// A page with a heading, a remark and a table.
pub(crate) fn table(title: &str, remark: &str, heads: &[&str], rows: &[Vec<String>]) -> Html<String> {
    let cells = |tag: &str, texts: &[&str]| -> String {
        texts.iter().map(|text| format!("<{tag}>{}</{tag}>", escape(text))).collect()
    };
    let body: String = rows
        .iter()
        .map(|row| format!("<tr>{}</tr>", cells("td", &row.iter().map(String::as_str).collect::<Vec<_>>())))
        .collect();
    let (title, remark, heads) = (escape(title), escape(remark), cells("th", heads));
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=2><title>{title}</title>\
         <style>{STYLE}</style><h1>{title}</h1><p>{remark}</p>\
         <table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></html>"
    ))
}

const STYLE: &str = "\
    :root{color-scheme:light dark}\
    body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:3rem auto;padding:0 1rem}\
    table{border-collapse:collapse;width:100%}\
    th,td{text-align:left;padding:.5rem;border-bottom:1px solid #8884;vertical-align:top;overflow-wrap:anywhere}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
