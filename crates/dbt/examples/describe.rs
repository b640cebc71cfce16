//! Compiles a description, says how big its tables are, and disassembles words: `describe FILE… [-- HEX…]`, or
//! `describe FILE… -- -` for words on its standard input, one a line.

#![expect(clippy::print_stdout, reason = "it says what it found")]

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (files, words) = match arguments.iter().position(|argument| argument == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (&arguments[..], &[][..]),
    };
    let sources: Vec<isa::Source> = files
        .iter()
        .map(|name| isa::Source { name: name.clone(), text: std::fs::read_to_string(name).expect("a file") })
        .collect();
    let began = std::time::Instant::now();
    match isa::compile(&sources) {
        Ok(isa) => {
            let nodes: usize = isa.instructions.iter().map(|it| it.plan.nodes.len()).sum();
            println!(
                "{}: {} instructions, {nodes} operations, {} bytes of state, {:?}",
                isa.name,
                isa.instructions.len(),
                isa.state_size(),
                began.elapsed()
            );
            let given = if words == ["-"] {
                std::io::read_to_string(std::io::stdin()).expect("words")
            } else {
                words.join("\n")
            };
            for word in given.split_whitespace() {
                let word = u32::from_str_radix(word, 16).expect("a word in hexadecimal");
                println!("{word:08x} {}", isa.disassemble(word).unwrap_or("-".into()));
            }
        }
        Err(error) => {
            println!("{error}");
            std::process::exit(1);
        }
    }
}
