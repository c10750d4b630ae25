#!/bin/sh
# Text files end with exactly one newline and have no trailing blanks. Mends the files given, or with --check only
# reports (default: every tracked text file).
set -eu
check=
[ "${1:-}" = --check ] && check=1 && shift
if [ $# -eq 0 ]; then
  cd "$(dirname "$0")/.."
  # shellcheck disable=SC2046  # names without spaces
  set -- $(git ls-files 2>/dev/null | grep -vE '^LICENSE$|\.(png|npz|json)$')
fi
status=0
for file; do
  [ -s "$file" ] || continue
  last=$(tail -c 2 "$file" | od -An -c | tr -d ' ')
  case $last in
    '\n\n') bad="several newlines at the end" ;;
    *'\n') bad= ;;
    *) bad="no newline at the end" ;;
  esac
  grep -qE '[[:blank:]]+$' "$file" && bad="${bad:+$bad, }blanks at the end of a line"
  [ -n "$bad" ] || continue
  if [ -n "$check" ]; then
    echo "$file: $bad"
    status=1
  else
    text=$(sed 's/[[:blank:]]*$//' "$file")
    printf '%s\n' "$text" > "$file"
  fi
done
exit $status
