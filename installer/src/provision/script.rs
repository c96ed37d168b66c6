//! Makes one shell script of `runcmd` or `bootcmd`, as cloud-init does (`cloudinit/util.py`, `shellify`).

use cloud_config::document::ShellCommand;

/// The script. Lines are used as they are, and lists have each argument in single quotes. A command that fails does not
/// end the script.
pub fn script(commands: &[ShellCommand]) -> String {
    let mut script = String::from("#!/bin/sh\n");
    for command in commands {
        match command {
            ShellCommand::Line(line) => script.push_str(line),
            ShellCommand::Arguments(arguments) => {
                let quoted: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
                script.push_str(&quoted.join(" "));
            }
        }
        script.push('\n');
    }
    script
}

fn quoted(argument: &str) -> String {
    format!("'{}'", argument.replace('\'', r#"'\''"#))
}

#[cfg(test)]
mod tests {
    use super::*;
    use command::Command;

    fn commands() -> Vec<ShellCommand> {
        let list = ["printf", "%s\n", "it's", "a b", "$HOME"].map(str::to_owned).to_vec();
        vec![
            ShellCommand::Line("x=1; echo $x".into()),
            ShellCommand::Arguments(list),
            ShellCommand::Line("echo $x".into()),
        ]
    }

    #[test]
    fn lines_share_one_shell_and_lists_are_taken_as_they_are() {
        let output = Command::new("sh").args(["-c", &script(&commands())]).run().unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), "1\nit's\na b\n$HOME\n1\n");
    }

    #[test]
    fn cloud_init_makes_the_same_script() {
        let program = "import sys, json, cloudinit.util as u\nsys.stdout.write(u.shellify(json.load(sys.stdin)))";
        let input = r#"["x=1; echo $x", ["printf", "%s\n", "it's", "a b", "$HOME"], "echo $x"]"#;
        let output = Command::new("/usr/bin/python3").args(["-c", program]).run_with_input(input.as_bytes()).unwrap();
        assert_eq!(script(&commands()), String::from_utf8(output).unwrap());
    }
}
