//! What a serial terminal of 80 columns and 24 rows shows: text, carriage returns, and the control sequences (ECMA-48)
//! that move its cursor and erase. Colours and other attributes are ignored.

const COLUMNS: usize = 80;
const ROWS: usize = 24;

pub struct Terminal {
    rows: Vec<[char; COLUMNS]>,
    row: usize,
    column: usize,
    /// A control sequence that has no end yet, without its escape character.
    sequence: Option<String>,
}

impl Default for Terminal {
    fn default() -> Self {
        Self { rows: vec![[' '; COLUMNS]; ROWS], row: 0, column: 0, sequence: None }
    }
}

impl Terminal {
    pub fn feed(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.put(char::from(byte)));
    }

    /// All rows, without the blanks at their ends.
    pub fn text(&self) -> String {
        self.rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
    }

    fn put(&mut self, character: char) {
        if let Some(mut sequence) = self.sequence.take() {
            sequence.push(character);
            let is_whole = match sequence.as_bytes()[0] {
                b'[' => sequence.len() > 1 && ('@'..='~').contains(&character),
                b']' => character == '\u{7}',
                b'(' | b')' | b'#' => sequence.len() == 2,
                _ => true,
            };
            if is_whole {
                self.execute(&sequence)
            } else {
                self.sequence = Some(sequence)
            }
            return;
        }
        match character {
            '\u{1b}' => self.sequence = Some(String::new()),
            '\r' => self.column = 0,
            '\n' => self.next_row(),
            '\u{8}' => self.column = self.column.min(COLUMNS).saturating_sub(1),
            _ if character.is_control() => {}
            _ => {
                if self.column == COLUMNS {
                    self.column = 0;
                    self.next_row();
                }
                self.rows[self.row][self.column] = character;
                self.column += 1;
            }
        }
    }

    fn next_row(&mut self) {
        if self.row + 1 < ROWS {
            self.row += 1;
        } else {
            self.rows.remove(0);
            self.rows.push([' '; COLUMNS]);
        }
    }

    fn execute(&mut self, sequence: &str) {
        let Some(parameters) = sequence.strip_prefix('[') else { return };
        let (parameters, command) = parameters.split_at(parameters.len() - 1);
        let numbers: Vec<usize> = parameters.split(';').map(|number| number.parse().unwrap_or(0)).collect();
        match command {
            "H" | "f" => {
                let position =
                    |index: usize, size: usize| numbers.get(index).map_or(0, |n| n.saturating_sub(1).min(size - 1));
                (self.row, self.column) = (position(0, ROWS), position(1, COLUMNS));
            }
            "J" if numbers[0] == 2 => self.rows.fill([' '; COLUMNS]),
            "J" if numbers[0] == 0 => {
                self.erase_rest_of_row();
                self.rows[self.row + 1..].fill([' '; COLUMNS]);
            }
            "K" if numbers[0] == 0 => self.erase_rest_of_row(),
            _ => {}
        }
    }

    fn erase_rest_of_row(&mut self) {
        self.rows[self.row][self.column.min(COLUMNS)..].fill(' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_where_a_terminal_would_show_it() {
        let mut terminal = Terminal::default();
        terminal.feed(b"old\x1b[2J\x1b[01;01H\x1b[1mhello\x1b[0m\r\nWhich? half\rWhich? 1\x1b[K\r\n");
        assert!(terminal.text().starts_with("hello\nWhich? 1\n\n"), "{}", terminal.text());
        terminal.feed("x".repeat(81).as_bytes());
        assert!(terminal.text().contains(&("x".repeat(80) + "\nx\n")), "{}", terminal.text());
        terminal.feed("\r\n".repeat(30).as_bytes());
        terminal.feed(b"last");
        assert!(terminal.text().ends_with("\nlast\n") && !terminal.text().contains("hello"), "{}", terminal.text());
    }
}
