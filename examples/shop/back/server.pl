#!/usr/bin/perl
# A small API on the environment's own database: /health, /products and /version. It needs nothing but Perl and psql.
use strict;
use warnings;
use IO::Socket::INET;

$SIG{CHLD} = 'IGNORE';
$SIG{TERM} = sub { exit 0 };
my $url = $ENV{DATABASE_URL} // die "DATABASE_URL is not set\n";
my $server = IO::Socket::INET->new(
    LocalAddr => $ENV{HOST} // '127.0.0.1', LocalPort => $ENV{PORT} // 3000, Listen => 64, ReuseAddr => 1,
) or die "cannot listen: $@\n";
$| = 1;
print "listening on port ", $server->sockport, "\n";

sub version {
    open(my $file, '<', 'version.txt') or return "unknown\n";
    return scalar <$file>;
}

# The parts of the URL go to psql by variables, since everybody can read arguments.
my @parts = $url =~ m{^postgres(?:ql)?://([^:@/]+):([^@/]*)\@\[?([^\]@/]+?)\]?:(\d+)/([^?]+)} or die "DATABASE_URL is no URL of a database\n";
s/%([0-9a-fA-F]{2})/chr hex $1/ge for @parts;
@ENV{qw(PGUSER PGPASSWORD PGHOST PGPORT PGDATABASE)} = @parts;

# Asks the database.
sub ask {
    my ($sql) = @_;
    open(my $psql, '-|', 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-c', $sql) or return;
    local $/;
    my $answer = <$psql>;
    local $SIG{CHLD} = 'DEFAULT';
    return close($psql) || $answer ? $answer : undef;
}

my %answers = (
    '/health'   => sub { defined ask('SELECT 1') ? (200, 'text/plain', "ok\n") : (503, 'text/plain', "no database\n") },
    '/version'  => sub { (200, 'text/plain', version()) },
    '/products' => sub {
        my $rows = ask("SELECT coalesce(json_agg(p), '[]') FROM (SELECT * FROM shop.products ORDER BY 1 LIMIT 5) p");
        defined $rows ? (200, 'application/json', $rows) : (503, 'text/plain', "no database\n");
    },
);

while (my $client = $server->accept) {
    next if fork;
    local $SIG{CHLD} = 'DEFAULT';
    my ($method, $path) = split ' ', (<$client> // '');
    while (my $line = <$client>) { last if $line =~ /^\r?\n$/ }
    my ($status, $type, $body) = (404, 'text/plain', "not here\n");
    if (defined $path) {
        $path =~ s/\?.*//;
        ($status, $type, $body) = $answers{$path}->() if $answers{$path};
    }
    print $client "HTTP/1.1 $status -\r\nContent-Type: $type\r\nContent-Length: ", length $body,
        "\r\nAccess-Control-Allow-Origin: *\r\nConnection: close\r\n\r\n", $body;
    exit 0;
} continue { close $client if $client }
