//! The only way to make HTML here: every text and every attribute is escaped, because there is no other.

/// Elements that have no end tag.
const VOID: [&str; 1] = ["meta"];

/// A piece of the page that is safe to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Markup(String);

impl Markup {
    /// A style sheet of our own. Never what came from outside: it is not escaped.
    pub fn style(sheet: &'static str) -> Self {
        Self(format!("<style>{sheet}</style>"))
    }

    pub fn into_html(self) -> String {
        self.0
    }
}

/// Text.
pub fn text(content: &str) -> Markup {
    Markup(escaped(content))
}

/// An element. Its name and the names of its attributes are ours, everything else may come from anywhere.
pub fn tag(
    name: &'static str,
    attributes: &[(&'static str, &str)],
    children: impl IntoIterator<Item = Markup>,
) -> Markup {
    let mut html = format!("<{name}");
    for (attribute, value) in attributes {
        html.push(' ');
        html.push_str(attribute);
        html.push_str("=\"");
        html.push_str(&escaped(value));
        html.push('"');
    }
    html.push('>');
    for Markup(child) in children {
        html.push_str(&child);
    }
    if !VOID.contains(&name) {
        html.push_str("</");
        html.push_str(name);
        html.push('>');
    }
    Markup(html)
}

/// An element with a class and a text.
pub fn span(class: &str, content: &str) -> Markup {
    tag("span", &[("class", class)], [text(content)])
}

/// Nothing that ends a text or an attribute is left, and no control character (a terminal may be shown the file).
fn escaped(content: &str) -> String {
    let mut html = String::with_capacity(content.len());
    for c in content.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            control if control.is_control() && control != '\n' => html.push(' '),
            plain => html.push(plain),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes() {
        let evil = "<script>alert('1' & \"2\")</script>\u{1b}[2J";
        let html = tag("p", &[("title", evil)], [text(evil)]).into_html();
        let safe = "&lt;script&gt;alert(&#39;1&#39; &amp; &quot;2&quot;)&lt;/script&gt; [2J";
        assert_eq!(html, format!("<p title=\"{safe}\">{safe}</p>"));
        assert_eq!(tag("meta", &[("name", "x")], []).into_html(), "<meta name=\"x\">");
    }
}
