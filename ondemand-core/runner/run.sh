#!/bin/sh
# Clones a repository at one commit, builds it, and becomes its service.
#
# Configured by environment variables:
#   ONDEMAND_REPOSITORY_URL  where the repository is: https://, http:// or file://, without a user or a token
#   ONDEMAND_COMMIT          the full id of the commit
#   ONDEMAND_BRANCH          the branch it was found on: fetched where the server serves no commit by its id
#   ONDEMAND_TOKEN_FILE      a file that holds a token for the server; an empty one holds none
#   ONDEMAND_SUBDIRECTORY    where in the repository to build and run
#   ONDEMAND_BUILD           a shell command that builds
#   ONDEMAND_RUN             a shell command that becomes the service; without it, this script's arguments are that command.
#                            Where it is several commands, the last one gets signals if it begins with exec
#   ONDEMAND_FILE_VARIABLES  names of variables: each X is read from the file that X_FILE names, for building and running
#   ONDEMAND_WORKSPACE       where the files are put: ./source
#   ONDEMAND_CACHE_DIR       a directory that outlives the workspace: what was cloned is kept there, and shared
#
# Ends with 90 if it is configured wrongly, with 91 if it cannot clone, else as the build or the service does. When it is
# started again with the same workspace, it starts what was built; what was not built to its end is built from clean files.
# INT and QUIT reach a build as TERM, for a shell starts commands beside itself with those ignored.
#
# POSIX sh, Git, and what both need; with flock, the cache is used.
set -u
# What is a list of words here is none of files.
set -f

od_child=
od_signal=
od_token=
od_input=

# Puts a text without the token into od_hidden.
hide() {
    od_hidden=$1
    while [ -n "$od_token" ]; do
        case $od_hidden in
            *"$od_token"*) od_hidden=${od_hidden%%"$od_token"*}'****'${od_hidden#*"$od_token"} ;;
            *) return ;;
        esac
    done
}

say() {
    hide "$*"
    printf '[ondemand] %s\n' "$od_hidden" >&2
}

fail() {
    od_code=$1
    shift
    say "error: $*"
    exit "$od_code"
}

# Prints a process and all that it started.
family() {
    printf '%s ' "$1"
    # shellcheck disable=SC2013 # they are words of one line
    for od_kin in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do family "$od_kin"; done
}

# Remembers that the end is wanted, and passes the signal on to whatever runs: $1 is what came, $2 what it is passed on as.
forward() {
    od_signal=$1
    od_interrupted=yes
    if [ -n "$od_child" ]; then
        # shellcheck disable=SC2046 # these are numbers
        kill -s "$2" $(family "$od_child") 2>/dev/null
    fi
}

# Ends, as the signal that came would have ended it.
end_if_asked() {
    case $od_signal in
        '') return ;;
        HUP) od_code=129 ;;
        INT) od_code=130 ;;
        QUIT) od_code=131 ;;
        *) od_code=143 ;;
    esac
    say "stopped by SIG$od_signal while $1"
    exit "$od_code"
}

# Runs a command to its end, whatever signals come meanwhile; its status is in od_status.
attend() {
    "$@" &
    od_child=$!
    # One that came before there was anything to pass it on to.
    if [ -n "$od_signal" ]; then forward "$od_signal" TERM; fi
    od_waited=
    while :; do
        od_interrupted=
        wait "$od_child"
        od_last=$?
        # There is no such child any more: what was told before was its status.
        if [ "$od_last" -eq 127 ] && [ -n "$od_waited" ]; then break; fi
        od_status=$od_last
        # A signal ends the waiting, with a status above 128, whether the command has ended or not.
        if [ -z "$od_interrupted" ] || [ "$od_status" -le 128 ]; then break; fi
        od_waited=yes
    done
    od_child=
}

# --- What is configured ---

# Fails if a value holds what only mistakes and attacks hold.
check_plain() {
    case $2 in
        *[[:cntrl:]]*) fail 90 "$1 holds a line break or another control character" ;;
    esac
}

check_url() {
    od_url=${ONDEMAND_REPOSITORY_URL:-}
    if [ -z "$od_url" ]; then fail 90 "ONDEMAND_REPOSITORY_URL is not set: it says what to clone"; fi
    check_plain ONDEMAND_REPOSITORY_URL "$od_url"
    case $od_url in
        *[[:space:]\"\'\\\`]*) fail 90 "ONDEMAND_REPOSITORY_URL holds a space, a quote or a backslash" ;;
        https://?*/?* | http://?*/?*)
            od_path=${od_url#*://}
            od_server=${od_path%%/*}
            od_path=${od_path#*/}
            ;;
        file:///?*)
            od_server=
            od_path=${od_url#file:///}
            # The last two names are whose it is and what it is called.
            od_rest=${od_path%/*/*}
            if [ "$od_rest" != "$od_path" ]; then od_path=${od_path#"$od_rest"/}; fi
            ;;
        # It may hold a token, so it is not repeated.
        *) fail 90 "ONDEMAND_REPOSITORY_URL is not https://SERVER/OWNER/REPOSITORY, nor http:// or file://" ;;
    esac
    case $od_server in
        *@*) fail 90 "ONDEMAND_REPOSITORY_URL names a user: a token goes into the file that ONDEMAND_TOKEN_FILE names" ;;
    esac
    od_name=${od_path%.git}
}

check_commit() {
    od_commit=${ONDEMAND_COMMIT:-}
    case $od_commit in
        '') fail 90 "ONDEMAND_COMMIT is not set: it says which commit to clone" ;;
        *[!0-9a-f]*) fail 90 "ONDEMAND_COMMIT is not the full id of a commit" ;;
    esac
    case ${#od_commit} in
        40 | 64) ;;
        *) fail 90 "ONDEMAND_COMMIT is not the full id of a commit" ;;
    esac
    od_short=$(printf %.7s "$od_commit")
    od_branch=${ONDEMAND_BRANCH:-}
    check_plain ONDEMAND_BRANCH "$od_branch"
    case $od_branch in
        -* | *[[:space:]~^:?*[\\]* | *..* | *'@{'*) fail 90 "ONDEMAND_BRANCH is not the name of a branch" ;;
    esac
}

check_token() {
    if [ -z "${ONDEMAND_TOKEN_FILE:-}" ]; then return; fi
    if ! [ -f "$ONDEMAND_TOKEN_FILE" ] || ! [ -r "$ONDEMAND_TOKEN_FILE" ]; then
        fail 90 "the file that ONDEMAND_TOKEN_FILE names cannot be read: $ONDEMAND_TOKEN_FILE"
    fi
    case $ONDEMAND_TOKEN_FILE in
        /*) ;;
        # Git reads it from elsewhere.
        *) ONDEMAND_TOKEN_FILE=$PWD/$ONDEMAND_TOKEN_FILE ;;
    esac
    export ONDEMAND_TOKEN_FILE
    od_token=$(cat "$ONDEMAND_TOKEN_FILE")
    case $od_token in
        # Whoever wants this has no token, and what everybody may read is cloned without.
        '') ;;
        *[!A-Za-z0-9_.~+/=-]*) fail 90 "the token file holds more than a token: $ONDEMAND_TOKEN_FILE" ;;
    esac
}

check_places() {
    od_subdirectory=${ONDEMAND_SUBDIRECTORY:-}
    check_plain ONDEMAND_SUBDIRECTORY "$od_subdirectory"
    case /$od_subdirectory/ in
        //?*/ | */../*) fail 90 "ONDEMAND_SUBDIRECTORY leads out of the repository: $od_subdirectory" ;;
    esac
    od_workspace=${ONDEMAND_WORKSPACE:-source}
    check_plain ONDEMAND_WORKSPACE "$od_workspace"
    case $od_workspace in
        /*) ;;
        *) od_workspace=$PWD/$od_workspace ;;
    esac
    od_cache=${ONDEMAND_CACHE_DIR:-}
    check_plain ONDEMAND_CACHE_DIR "$od_cache"
    case $od_cache in
        '' | /*) ;;
        *) od_cache=$PWD/$od_cache ;;
    esac
}

check_file_variables() {
    od_variables=
    for od_one in $(printf %s "${ONDEMAND_FILE_VARIABLES:-}" | tr ',\n\t' '   '); do
        case $od_one in
            [!A-Za-z_]* | *[!A-Za-z0-9_]*) fail 90 "ONDEMAND_FILE_VARIABLES holds what is no name of a variable: $od_one" ;;
            od_*) fail 90 "ONDEMAND_FILE_VARIABLES: names that begin with od_ are taken: $od_one" ;;
        esac
        eval "od_file=\${${od_one}_FILE:-}"
        if [ -z "$od_file" ]; then fail 90 "ONDEMAND_FILE_VARIABLES names $od_one, and ${od_one}_FILE is not set"; fi
        if ! [ -f "$od_file" ] || ! [ -r "$od_file" ]; then
            fail 90 "the file that ${od_one}_FILE names cannot be read: $od_file"
        fi
        od_variables="$od_variables $od_one"
    done
}

# Sets those variables. What only the build and the service may see is read as late as this.
read_file_variables() {
    for od_one in $od_variables; do
        eval "od_file=\$${od_one}_FILE"
        # shellcheck disable=SC2034 # the next line but one uses it
        od_value=$(cat "$od_file") || fail 90 "the file that ${od_one}_FILE names cannot be read: $od_file"
        eval "$od_one=\$od_value; export $od_one"
    done
    unset od_value
}

# --- Git ---

# Writes the settings that Git is run with: those of this machine's users are not for this.
write_settings() {
    {
        printf '[safe]\n\tdirectory = *\n'
        printf '[core]\n\thooksPath = /dev/null\n\taskPass =\n'
        printf '[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n'
        # A server that says nothing for this many seconds is given up.
        printf '[http]\n\tlowSpeedLimit = 1\n\tlowSpeedTime = 60\n'
        printf '[uploadpack]\n\tallowAnySHA1InWant = true\n'
        # An empty one takes back those that the machine has set.
        printf '[credential]\n\thelper =\n'
        if [ -n "$od_token" ] && [ -n "$od_server" ]; then
            # For this server alone, wherever it may lead to. The file is read by a shell's own words, so that no process is
            # ever given the token as an argument.
            printf '[credential "%s"]\n' "${od_url%%://*}://$od_server"
            # shellcheck disable=SC2016 # Git's shell expands these
            printf '\thelper = "!f() { if test \\"$1\\" = get; then echo username=x-access-token; %s; fi; }; f"\n' \
                'printf password=; cat \"$ONDEMAND_TOKEN_FILE\"; echo'
        fi
    } >"$od_state/settings" || fail 90 "the workspace cannot be written: $od_workspace"
}

# Runs Git with these settings, and without what makes it tell more than it should.
run_git() {
    (
        unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_NAMESPACE \
            GIT_CONFIG_COUNT GIT_CONFIG_PARAMETERS GIT_TRACE GIT_TRACE_CURL GIT_CURL_VERBOSE GIT_TRACE_PACKET GIT_TRACE2 \
            GIT_TRACE2_EVENT GIT_TRACE2_PERF GIT_TRACE_SETUP GIT_ASKPASS SSH_ASKPASS
        export GIT_CONFIG_GLOBAL="$od_state/settings" GIT_TERMINAL_PROMPT=0 LC_ALL=C
        exec git "$@" <"${od_input:-/dev/null}"
    )
}

# Passes lines on without the token.
scrub() {
    while IFS= read -r od_line || [ -n "$od_line" ]; do
        hide "$od_line"
        printf '%s\n' "$od_hidden"
    done
}

# Runs Git, and keeps what it says in a file.
hear_git() {
    {
        run_git "$@"
        echo $? >"$od_state/status"
    } 2>&1 | scrub >"$od_state/said"
}

# Runs Git and waits for it, wherever it waits itself; returns its status.
try_git() {
    rm -f "$od_state/status"
    attend hear_git "$@"
    end_if_asked "cloning $od_name"
    od_status=
    read -r od_status <"$od_state/status"
    return "${od_status:-91}"
}

# Shows what Git said last.
show_said() {
    while IFS= read -r od_line; do say "git: $od_line"; done <"$od_state/said"
}

said() { grep -q -i -e "$1" "$od_state/said"; }

# Fails, and says why, by what Git said last.
fail_clone() {
    show_said
    if said 'authentication failed' || said 'returned error: 403'; then
        fail 91 "the server does not let this token read $od_name: it is wrong, has expired or was revoked"
    fi
    if said 'could not read Username'; then
        fail 91 "$od_name does not exist, or cannot be read without a token"
    fi
    if said 'not found' || said 'does not appear to be a git repository'; then
        fail 91 "$od_name does not exist, or may not be read with this token"
    fi
    fail 91 "$od_name could not be cloned"
}

has_commit() { run_git -C "$1" cat-file -e "$od_commit^{commit}" 2>/dev/null; }

# Fetches the commit from a URL into a repository: alone; else as far back as it may be on its branch; else all.
fetch() {
    if try_git -C "$1" fetch --quiet --no-tags --depth=1 "$2" "+$od_commit:refs/ondemand/commits/$od_commit"; then return; fi
    # Where the server says anything but that it has no such commit to give, another try gets the same.
    if ! said 'not our ref' && ! said 'unadvertised object' && ! said "couldn't find remote ref"; then
        return 1
    fi
    if [ -n "$od_branch" ]; then
        for od_depth in 50 2147483647; do
            if ! try_git -C "$1" fetch --quiet --no-tags "--depth=$od_depth" "$2" \
                "+refs/heads/$od_branch:refs/ondemand/branch"; then
                break
            fi
            if has_commit "$1"; then return; fi
        done
    fi
    if ! try_git -C "$1" fetch --quiet --no-tags --depth=2147483647 "$2" '+refs/heads/*:refs/ondemand/heads/*'; then
        return 1
    fi
    if has_commit "$1"; then return; fi
    fail 91 "commit $od_short is no longer in $od_name: ${od_branch:-its branch} was deleted or rewritten;" \
        "redeploy to take the newest commit"
}

# Removes what a Git that was killed has left.
unlock() { find "$1" -name '*.lock' -type f -exec rm -f {} + 2>/dev/null; }

# Puts a pack of the cache into the workspace, and tells whether it has all of the commit that it is named after. Git numbers objects by
# what is in them, so what others put there can be missing, and cannot be something else.
take() {
    od_held=${1##*/}
    od_held=${od_held%.pack}
    case $od_held in *[!0-9a-f]*) return 1 ;; esac
    if ! [ -f "$1" ]; then return 1; fi
    od_shallow=$(cat "$od_workspace/.git/shallow" 2>/dev/null)
    # What came before it is not there.
    {
        if [ -n "$od_shallow" ]; then printf '%s\n' "$od_shallow"; fi
        printf '%s\n' "$od_held"
    } >"$od_workspace/.git/shallow"
    od_input=$1
    try_git -C "$od_workspace" index-pack --stdin
    od_taken=$?
    od_input=
    if [ "$od_taken" -eq 0 ] && try_git -C "$od_workspace" rev-list --objects --quiet "$od_held"; then return; fi
    rm -f "$od_workspace/.git/shallow"
    if [ -n "$od_shallow" ]; then printf '%s\n' "$od_shallow" >"$od_workspace/.git/shallow"; fi
    say "the cache of $od_name is broken, and is made anew"
    rm -f "$1"
    return 1
}

# Puts the commit into the cache, in place of others: the next one differs from it by little.
keep() {
    printf -- '--shallow %s\n%s\n' "$od_commit" "$od_commit" >"$od_state/wanted"
    od_input=$od_state/wanted
    try_git -C "$od_workspace" pack-objects --revs --quiet "$od_state/pack"
    od_input=
    set +f
    rm -f "$od_packs"/new.*
    # A name that nobody can have put something under.
    if od_new=$(mktemp "$od_packs/new.XXXXXX" 2>/dev/null) && cat "$od_state"/pack-*.pack 2>/dev/null >"$od_new" &&
        chmod 644 "$od_new" && mv -f "$od_new" "$od_packs/$od_commit.pack"; then
        for od_one in "$od_packs"/*.pack; do
            if [ "$od_one" != "$od_packs/$od_commit.pack" ]; then rm -f "$od_one"; fi
        done
    else
        say "the cache of $od_name cannot be written, and is not used"
        rm -f "$od_packs"/new.*
    fi
    rm -f "$od_state"/pack-*
    set -f
}

# Fetches the commit by way of the cache, which others use at the same time, and tells whether it is in the workspace.
#
# The cache holds packs, each of one commit and its files. It is never a repository to Git: whoever may mount it could put settings and hooks
# there, which Git would follow with somebody else's token at hand.
use_cache() {
    if [ -z "$od_cache" ]; then return 1; fi
    if ! mkdir -p "$od_cache/git" 2>/dev/null || ! [ -w "$od_cache/git" ]; then
        say "the cache cannot be written, and is not used: $od_cache"
        return 1
    fi
    if ! command -v flock >/dev/null; then
        say "there is no flock here, so the cache is not used"
        return 1
    fi
    # Part of the name for people; the number tells equal names apart.
    od_packs=$od_cache/git/${od_name##*/}-$(printf %s "$od_url" | cksum | tr ' ' -)
    # Tried aside first, for a shell ends when it cannot open one of its own.
    if [ -h "$od_packs" ] || ! mkdir -p "$od_packs" 2>/dev/null || ! (: >>"$od_packs/lock") 2>/dev/null; then
        say "the cache of $od_name is another user's, and is not used"
        return 1
    fi
    exec 9>>"$od_packs/lock"
    # A lock that ends with whoever holds it, however that ends.
    attend flock 9
    end_if_asked "waiting for the cache"
    if [ "$od_status" -ne 0 ]; then
        exec 9>&-
        return 1
    fi
    if take "$od_packs/$od_commit.pack"; then
        say "taking $od_name from the cache"
    else
        set +f
        for od_one in "$od_packs"/*.pack; do
            set -f
            # Then only what differs from that one is fetched.
            if take "$od_one" && try_git -C "$od_workspace" update-ref refs/ondemand/base "$od_held"; then break; fi
        done
        set -f
        if ! fetch "$od_workspace" "$od_url"; then fail_clone; fi
        keep
    fi
    exec 9>&-
}

# Puts the files of the commit, and nothing else, into the workspace.
clone() {
    say "cloning $od_name at $od_short"
    unlock "$od_workspace/.git"
    if ! try_git init --quiet "$od_workspace"; then fail_clone; fi
    if ! has_commit "$od_workspace" && ! use_cache && ! fetch "$od_workspace" "$od_url"; then fail_clone; fi
    if ! try_git -C "$od_workspace" checkout --quiet --force --detach "$od_commit"; then fail_clone; fi
    # A cache that is mounted in the workspace is not what a build has left.
    od_keep=
    case $od_cache in
        "$od_workspace"/*) od_keep=${od_cache#"$od_workspace"} ;;
    esac
    if ! try_git -C "$od_workspace" clean --quiet -ffdx ${od_keep:+"--exclude=$od_keep"}; then fail_clone; fi
}

# Makes the workspace, or recognises it.
claim() {
    if [ -e "$od_workspace" ] && ! [ -d "$od_workspace/.git/ondemand" ]; then
        set +f
        for od_one in "$od_workspace"/* "$od_workspace"/.[!.]* "$od_workspace"/..?*; do
            # What a disk of its own, or a cache that is mounted there, brings.
            case $od_one:$od_cache/ in
                */lost+found:* | "$od_one:$od_one"/*) continue ;;
            esac
            if [ -e "$od_one" ] || [ -L "$od_one" ]; then
                fail 90 "the workspace holds something else already: $od_one"
            fi
        done
        set -f
    fi
    # Before anything else is in it, so that it is recognised whenever this is killed.
    mkdir -p "$od_workspace/.git/ondemand" || fail 90 "the workspace cannot be made: $od_workspace"
    # Without links, for it is compared.
    od_workspace=$(CDPATH='' cd -P -- "$od_workspace" && pwd) || fail 90 "the workspace cannot be entered: $od_workspace"
    od_state=$od_workspace/.git/ondemand
    if [ -n "$od_cache" ] && [ -d "$od_cache" ]; then
        od_cache=$(CDPATH='' cd -P -- "$od_cache" && pwd) || od_cache=
    fi
}

# Runs the build, as itself.
run_build() {
    read_file_variables
    exec sh -c "$ONDEMAND_BUILD"
}

build() {
    if [ -z "${ONDEMAND_BUILD:-}" ]; then return; fi
    say "building: $ONDEMAND_BUILD"
    attend run_build
    if [ "$od_status" -ne 0 ]; then
        if [ -z "$od_signal" ]; then fail "$od_status" "the build failed with status $od_status"; fi
        say "stopped by SIG$od_signal while building"
        exit "$od_status"
    fi
    end_if_asked "building"
}

enter() {
    cd "$od_workspace/$od_subdirectory" 2>/dev/null ||
        fail 90 "there is no directory $od_subdirectory in $od_name at $od_short"
}

# Becomes what ONDEMAND_RUN says. Not every shell leaves its place to its last command by itself, and signals would then end the
# shell alone: so one program, with its words and redirections, is told to take the place, and only what is more is left to a
# shell.
become() {
    case $ONDEMAND_RUN in
        *[\;\&\|\(\)\`]* | *'
'*) exec sh -c "$ONDEMAND_RUN" ;;
    esac
    od_env=
    od_rest=$ONDEMAND_RUN
    while :; do
        od_rest=${od_rest#"${od_rest%%[![:space:]]*}"}
        od_word=${od_rest%%[[:space:]]*}
        case $od_word in
            # What a shell must read first is no program's name.
            *[\$\"\'\\]*) break ;;
            # A variable for the program alone.
            [A-Za-z_]*=*)
                od_env='env '
                od_rest=${od_rest#"$od_word"}
                ;;
            *) break ;;
        esac
    done
    case $(command -v -- "$od_word" 2>/dev/null) in
        /* | ./* | ../*) exec sh -c "exec $od_env$ONDEMAND_RUN" ;;
        *) exec sh -c "$ONDEMAND_RUN" ;;
    esac
}

# Remembers what was built; in one step, so that it is never half there.
mark_built() {
    # A build may have removed what it takes for Git's.
    if ! mkdir -p "$od_state" || ! printf '%s\n' "$od_key" >"$od_state/built.new" ||
        ! mv "$od_state/built.new" "$od_state/built"; then
        fail 90 "the workspace cannot be written: $od_workspace"
    fi
}

main() {
    trap 'forward TERM TERM' TERM
    trap 'forward INT TERM' INT
    trap 'forward QUIT TERM' QUIT
    trap 'forward HUP HUP' HUP
    command -v git >/dev/null || fail 90 "there is no Git here"
    check_url
    check_commit
    check_token
    check_places
    check_file_variables
    if [ -z "${ONDEMAND_RUN:-}" ] && [ $# -eq 0 ]; then fail 90 "ONDEMAND_RUN is not set: it says what to start"; fi

    claim
    od_key=$(printf '%s\n' "$od_url" "$od_commit" "$od_subdirectory" "${ONDEMAND_BUILD:-}")
    if [ -f "$od_state/built" ] && [ "$(cat "$od_state/built")" = "$od_key" ]; then
        say "$od_name at $od_short is built already"
        enter
    else
        rm -f "$od_state/built"
        write_settings
        clone
        enter
        build
        # In one step, so that it is never half there.
        mark_built
    fi

    end_if_asked "starting"
    read_file_variables
    # From here on signals are the service's own.
    trap - TERM INT QUIT HUP
    if [ -n "${ONDEMAND_RUN:-}" ]; then
        say "starting: $ONDEMAND_RUN"
        become
    fi
    say "starting: $*"
    exec "$@"
}

main "$@"
