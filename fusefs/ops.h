// The operations: one function per request, by what they are about.
//
//     ops_nodes.cc        lookup, forget, getattr, statx, setattr, readlink
//     ops_names.cc        mknod, mkdir, symlink, link, unlink, rmdir, rename
//     ops_directories.cc  readdir, readdirplus, fsyncdir
//     ops_open.cc         open, create, tmpfile, release
//     ops_data.cc         read, write, fsync, fallocate, lseek, copy_file_range
//     ops_xattr.cc        extended attributes and ACLs
//     ops_ioctl.cc        ioctl
//     ops_clone.cc        ioctl: clone
//     ops_remap.cc        ioctl: dedupe, unshare
//     ops_window.cc       ioctl: windows
//     ops_window_file.cc  everything on control files of windows
//     ops_volume.cc       statfs, syncfs
//
// Functions of libfuse's table are called by it while a request is being decoded
// (fuse_source.h); the others are called directly, for requests that libfuse 3.14 does not know or
// would decode wrongly.
#pragma once

#include <string_view>

#include "fusefs/operation.h"

namespace fusefs {

void add_node_ops(fuse_lowlevel_ops& ops);
void add_name_ops(fuse_lowlevel_ops& ops);
void add_directory_ops(fuse_lowlevel_ops& ops);
void add_open_ops(fuse_lowlevel_ops& ops);
void add_data_ops(fuse_lowlevel_ops& ops);
void add_xattr_ops(fuse_lowlevel_ops& ops);
void add_ioctl_ops(fuse_lowlevel_ops& ops);
void add_volume_ops(fuse_lowlevel_ops& ops);

// Each makes an operation of the request being decoded.
void serve_statx();
void serve_tmpfile();
void serve_copy_file_range(bool wide_answer);
void serve_setxattr(const RequestLayout& layout);
void serve_syncfs();
// After a change of a name, which is made: durable if it must be. Linux takes no notice of what has
// changed when the answer is an error, so it forgets the name then, soon.
//   Restarts, Errors  as Server::settle_names()
Attempt<void> settle_name(FuseOperation& op, JournalSeq seq, InodeNo directory,
                          std::string_view name);
// True when the request is for a control file of a window, and an operation has been made of it.
bool serve_window_node(const fuse_in_header& header);
// What a lookup of such a file answers.
fuse_entry_out wire_window_entry(const WindowHolder& holder);

}  // namespace fusefs
