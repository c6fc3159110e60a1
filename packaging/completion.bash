# Bash completion of fusefs and of the links to it.
_fusefs_options() {
  case "$1" in
    mkfs) echo "--size --label --uuid --force --nodiscard --quiet --dry-run --json" ;;
    mount) echo "--options --foreground --debug --read-only" ;;
    umount) echo "--lazy --json" ;;
    check) echo "--no-changes --yes --preen --force --quiet --json" ;;
    info) echo "--json --udev" ;;
    stats) echo "--json --prometheus --watch" ;;
    pins) echo "--json" ;;
    clone) echo "--range --force --json" ;;
    dedupe) echo "--range --json" ;;
    unshare) echo "--range --keep-holes --json" ;;
    trim) echo "--minimum --json" ;;
    dump) echo "--json" ;;
    bench) echo "--size --quick --json" ;;
  esac
}

_fusefs() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command
  case "${COMP_WORDS[0]##*/}" in
    mkfs.fusefs) command=mkfs ;;
    fsck.fusefs) command=check ;;
    *) command=${COMP_WORDS[1]} ;;
  esac
  COMPREPLY=()
  if [[ "${COMP_WORDS[0]##*/}" == fusefs && $COMP_CWORD == 1 ]]; then
    mapfile -t COMPREPLY < <(compgen -W "mkfs mount umount check info stats pins clone
      dedupe unshare trim dump bench --help --version" -- "$current")
  elif [[ "$previous" == -o || "$previous" == --options ]]; then
    mapfile -t COMPREPLY < <(compgen -W "ro rw nosuid nodev noexec sync dirsync relatime noatime
      strictatime lazytime allow_other nonempty fsname= cache= discard norecovery threads= direct=
      mmap_reserve= readahead= fault= writeback= sync_writes= completion= selfio= lock_delay_ms=
      pin_limit= pin_limit_per_user= pinned= iopoll fuseblk nofuseblk max_background=" -- "$current")
  elif [[ "$command" == dump && $COMP_CWORD == 3 ]]; then
    mapfile -t COMPREPLY < <(compgen -W "superblock journal tree orphans shared inode group node
      path" -- "$current")
  elif [[ "$current" == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_fusefs_options "$command") --help" -- "$current")
  else
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
  fi
}
complete -F _fusefs fusefs mkfs.fusefs fsck.fusefs
