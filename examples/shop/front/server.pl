#!/usr/bin/perl
# Serves the page that build.sh made, with the address of the API in it.
use strict;
use warnings;
use IO::Socket::INET;

$SIG{CHLD} = 'IGNORE';
$SIG{TERM} = sub { exit 0 };
my $server = IO::Socket::INET->new(
    LocalAddr => $ENV{HOST} // '127.0.0.1', LocalPort => $ENV{PORT} // 8080, Listen => 64, ReuseAddr => 1,
) or die "cannot listen: $@\n";
$| = 1;
print "listening on port ", $server->sockport, "\n";
open(my $file, '<', 'public/index.html') or die "public/index.html: $!; was it built?\n";
my $page = do { local $/; <$file> };
my $api = $ENV{API_URL} // '';
$page =~ s/\@API\@/$api/g;

while (my $client = $server->accept) {
    next if fork;
    my ($method, $path) = split ' ', (<$client> // '');
    while (my $line = <$client>) { last if $line =~ /^\r?\n$/ }
    my ($status, $body) = ($path // '') eq '/' ? (200, $page) : (404, "not here\n");
    print $client "HTTP/1.1 $status -\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: ", length $body,
        "\r\nConnection: close\r\n\r\n", $body;
    exit 0;
} continue { close $client if $client }
