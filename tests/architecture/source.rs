//! A source file as the rules see it: its tokens outside tests, with lines, and its functions.

use std::fmt;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::Visit;

/// A breach of a rule, printed as `src/x.rs:12: what`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// One token. A group is its opening and closing bracket with its content between them.
pub struct Token {
    pub text: String,
    pub line: usize,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ident,
    Punct,
    Literal,
    Open,
    Close,
}

pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
    pub arguments: usize,
}

pub struct Source {
    /// Below `src/`, with `/`: `store/fleet.rs`.
    pub path: String,
    /// What stands outside `#[cfg(test)]`.
    pub tokens: Vec<Token>,
    pub functions: Vec<Function>,
    pub lines: usize,
    /// First and last line and name of the modules that stand inside the file.
    inline_modules: Vec<(usize, usize, String)>,
    /// Modules in files of their own that stand under `#[cfg(test)]`.
    test_modules: Vec<String>,
}

impl Source {
    /// # Panics
    /// When the text is not Rust.
    pub fn parse(path: &str, text: &str) -> Self {
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("src/{path}: {error}"));
        let mut reader = Reader::default();
        reader.visit_file(&file);
        let stream: TokenStream = text.parse().unwrap_or_else(|error| panic!("src/{path}: {error}"));
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        let in_test = |line: usize| reader.tests.iter().any(|(first, last)| (*first..=*last).contains(&line));
        tokens.retain(|token| !in_test(token.line));
        let lines = (1..=text.lines().count()).filter(|line| !in_test(*line)).count();
        Self {
            path: path.to_owned(),
            tokens,
            functions: reader.functions,
            lines,
            inline_modules: reader.modules,
            test_modules: reader.test_modules,
        }
    }

    /// Files (and directories, with `/`) that this one includes in tests only.
    pub fn test_files(&self) -> Vec<String> {
        let dir = match self.module(0) {
            module if module.is_empty() => String::new(),
            module => module.join("/") + "/",
        };
        self.test_modules.iter().flat_map(|name| [format!("{dir}{name}.rs"), format!("{dir}{name}/")]).collect()
    }

    /// The module's path from the crate's root at this line: `store/fleet.rs` is `["store", "fleet"]`.
    pub fn module(&self, line: usize) -> Vec<String> {
        let stem = self.path.trim_end_matches(".rs");
        let stem = stem.strip_suffix("/mod").unwrap_or(stem);
        let mut module: Vec<String> = match stem {
            "lib" | "main" => Vec::new(),
            stem => stem.split('/').map(str::to_owned).collect(),
        };
        let inner = self.inline_modules.iter().filter(|(first, last, _)| (*first..=*last).contains(&line));
        module.extend(inner.map(|(_, _, name)| name.clone()));
        module
    }

    /// The name that ranks are given to: the first directory, or the file at the top.
    pub fn top(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    pub fn under(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path == *place || (place.ends_with('/') && self.path.starts_with(place)))
    }

    pub fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: format!("src/{}", self.path), line, what: what.into() }
    }

    pub fn text(&self, index: usize) -> &str {
        self.tokens.get(index).map_or("", |token| token.text.as_str())
    }

    /// Do these tokens stand at this index?
    pub fn at(&self, index: usize, texts: &[&str]) -> bool {
        texts.iter().enumerate().all(|(offset, text)| self.text(index + offset) == *text)
    }

    /// Is this the first name of a path (`a` in `a::b`, `::a::b` and `use a;`)?
    pub fn begins_path(&self, index: usize) -> bool {
        let before = if index == 0 { "" } else { self.text(index - 1) };
        let absolute = before == "::" && (index < 2 || self.tokens[index - 2].kind != Kind::Ident) && {
            let opener = if index < 2 { "" } else { self.text(index - 2) };
            opener != ">"
        };
        let first = absolute || (before != "::" && before != ".");
        first && (self.text(index + 1) == "::" || before == "use" || before == "crate")
    }
}

/// Every file below `src/`, except those that are tests as a whole (`#[cfg(test)] mod x;`).
///
/// # Panics
/// When `src/` cannot be read.
pub fn read_all(root: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    collect(root, &mut files);
    files.sort();
    let parse = |file: &std::path::PathBuf| {
        let path = file.strip_prefix(root).ok()?.to_str()?.to_owned();
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Some(Source::parse(&path, &text))
    };
    let mut sources: Vec<Source> = files.iter().filter_map(parse).collect();
    let tests: Vec<String> = sources.iter().flat_map(Source::test_files).collect();
    let tests: Vec<&str> = tests.iter().map(String::as_str).collect();
    sources.retain(|source| !source.under(&tests));
    assert!(!sources.is_empty(), "no sources below {}", root.display());
    sources
}

fn collect(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.unwrap_or_else(|error| panic!("{}: {error}", dir.display())).path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn flatten(stream: TokenStream, out: &mut Vec<Token>) {
    let mut joint = false;
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                out.push(Token { text: open.to_owned(), line, kind: Kind::Open });
                flatten(group.stream(), out);
                let end = group.span_close().start().line;
                out.push(Token { text: close.to_owned(), line: end, kind: Kind::Close });
                joint = false;
            }
            TokenTree::Ident(ident) => {
                out.push(Token { text: ident.to_string(), line, kind: Kind::Ident });
                joint = false;
            }
            TokenTree::Punct(punct) => {
                // `::` is one token here, everything else stays single.
                if joint && punct.as_char() == ':' && out.last().is_some_and(|last| last.text == ":") {
                    if let Some(last) = out.last_mut() {
                        "::".clone_into(&mut last.text);
                    }
                    joint = false;
                } else {
                    joint = punct.spacing() == proc_macro2::Spacing::Joint;
                    out.push(Token { text: punct.as_char().to_string(), line, kind: Kind::Punct });
                }
            }
            TokenTree::Literal(literal) => {
                out.push(Token { text: literal.to_string(), line, kind: Kind::Literal });
                joint = false;
            }
        }
    }
}

#[derive(Default)]
struct Reader {
    tests: Vec<(usize, usize)>,
    modules: Vec<(usize, usize, String)>,
    test_modules: Vec<String>,
    functions: Vec<Function>,
}

/// `#[test]`, `#[tokio::test]`, `#[cfg(test)]` and `#[cfg(all(test, …))]`; what may also be built without tests is not.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let last = attribute.path().segments.last().map(|segment| segment.ident.to_string());
        match (last.as_deref(), &attribute.meta) {
            (Some("test"), _) => true,
            (Some("cfg"), syn::Meta::List(meta)) => {
                let mut tokens = Vec::new();
                flatten(meta.tokens.clone(), &mut tokens);
                let names = |name: &str| tokens.iter().any(|token| token.text == name);
                names("test") && !names("not") && !names("any")
            }
            _ => false,
        }
    })
}

/// The name of a module's file, without `.rs`: its own, or that of `#[path = "…"]`.
fn file_of(module: &syn::ItemMod) -> String {
    let named = module.attrs.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    named.map_or_else(|| module.ident.to_string(), |path| path.trim_end_matches(".rs").to_owned())
}

impl Reader {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let line = signature.fn_token.span().start().line;
        let receiver = usize::from(signature.receiver().is_some());
        self.functions.push(Function {
            name: signature.ident.to_string(),
            line,
            // Between the braces, as clippy counts.
            lines: block.span().end().line.saturating_sub(block.span().start().line).saturating_sub(1),
            arguments: signature.inputs.len() - receiver,
        });
    }

    fn skip(&mut self, attributes: &[syn::Attribute], span: proc_macro2::Span) -> bool {
        let test = is_test(attributes);
        if test {
            let first = attributes.iter().map(|a| a.span().start().line).min().unwrap_or(span.start().line);
            self.tests.push((first.min(span.start().line), span.end().line));
        }
        test
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes: &[syn::Attribute] = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Static(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Enum(item) => &item.attrs,
            syn::Item::Macro(item) => &item.attrs,
            _ => &[],
        };
        if !self.skip(attributes, item.span()) {
            syn::visit::visit_item(self, item);
        } else if let syn::Item::Mod(module) = item
            && module.content.is_none()
        {
            self.test_modules.push(file_of(module));
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_some() {
            let span = item.span();
            self.modules.push((span.start().line, span.end().line, item.ident.to_string()));
        }
        syn::visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if self.skip(&item.attrs, item.span()) {
            return;
        }
        self.function(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }
}
