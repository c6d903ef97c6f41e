//! The programs that the behaviours of an orchestrator are tried with.

/// A program that a harness has to offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Runs until it is told to end, and then ends at once.
    Sleeps,
    /// Runs until it is killed: it ignores the signal that asks it to end. Its grace is a second at most.
    Stubborn,
    /// Ends with status 3.
    Exits,
    /// Writes `one`, `two` and `three`, a line each, and then sleeps.
    Prints,
    /// Writes `tick 0`, `tick 1`, and so on, some every second.
    Ticks,
    /// Is a program, or an image, that does not exist.
    Missing,
    /// Writes `done` and ends with status 0.
    Completes,
    /// Writes `no such table` and ends with status 3.
    Fails,
    /// Says `hello` to whoever connects to the port `PORT`, or [`PORT`](super::PORT) where there is no such variable.
    Listens,
    /// Connects to where the variable `ONDEMAND_SERVICE_WEB_SERVER` says, tries until it succeeds, writes `found: ` and the line it is told, and then
    /// sleeps.
    Finds,
    /// The same, but it tries once, and ends with status 3 if it does not succeed.
    FindsAtOnce,
    /// Writes what is in the file that the variable `SECRET_FILE` names, and then sleeps.
    ReadsSecret,
    /// Writes `clean`, or `littered` if it finds what it leaves: files and directories where it was started, that are hard to remove. Then it sleeps.
    Litters,
}

impl Program {
    /// Returns the program as a script for `/bin/sh`, for orchestrators that have one. [`Program::Missing`] is for the harness to miss.
    pub fn script(self) -> &'static str {
        match self {
            Self::Sleeps | Self::Missing => "exec sleep 1000",
            Self::Stubborn => "trap '' TERM; while :; do sleep 1000; done",
            Self::Exits => "exit 3",
            Self::Prints => "echo one; echo two; echo three; exec sleep 1000",
            Self::Ticks => "n=0; while :; do echo tick $n; n=$((n + 1)); sleep 0.1; done",
            Self::Completes => "echo done",
            Self::Fails => "echo no such table; exit 3",
            Self::Listens => {
                r#"exec perl -MIO::Socket::INET -e '
                    $SIG{PIPE} = "IGNORE";
                    my $host = $ENV{LISTEN_ON} || "0.0.0.0";
                    my $socket = IO::Socket::INET->new(LocalAddr => $host, LocalPort => $ENV{PORT} || 8080, Listen => 9, ReuseAddr => 1)
                        or die "cannot listen: $!";
                    while (1) { my $client = $socket->accept or next; print $client "hello\n"; close $client }'"#
            }
            Self::Finds => {
                r#"exec perl -MIO::Socket::INET -e '
                    $| = 1;
                    for (1 .. 300) {
                        my $socket = IO::Socket::INET->new(PeerAddr => $ENV{ONDEMAND_SERVICE_WEB_SERVER});
                        if ($socket) { print "found: ", scalar <$socket>; sleep 1000; exit }
                        select undef, undef, undef, 0.1;
                    }
                    die "not found: $@"'"#
            }
            Self::FindsAtOnce => {
                r#"exec perl -MIO::Socket::INET -e '
                    $| = 1;
                    my $socket = IO::Socket::INET->new(PeerAddr => $ENV{ONDEMAND_SERVICE_WEB_SERVER}) or exit 3;
                    print "found: ", scalar <$socket>;
                    sleep 1000'"#
            }
            Self::ReadsSecret => r#"cat "$SECRET_FILE"; echo; exec sleep 1000"#,
            Self::Litters => {
                "if [ -e litter ]; then echo littered; else echo clean; fi; mkdir -p litter/shut/deep; echo x >litter/shut/file; \
                 ln -s /etc litter/link; chmod 0 litter/shut; chmod 500 litter; exec sleep 1000"
            }
        }
    }

    /// A line for the shell that succeeds where [`Program::Listens`] answers, in the place of that program.
    pub const ANSWERS: &'static str = r#"perl -MIO::Socket::INET -e '
        exit(IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $ENV{PORT} || 8080) ? 0 : 1)'"#;
}
