//! The lists of packages, files and modules in `lists/`: one entry a line, a comment after `#`.

pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_do_not_count() {
        assert_eq!(lines("# a\n\n b # c\nd\n").collect::<Vec<_>>(), ["b", "d"]);
    }
}
