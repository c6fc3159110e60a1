# What `cmake --install` puts where, and the .deb of it (packaging/install).
include(GNUInstallDirs)

install(TARGETS fusefs RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS fusefs_client fusefs_client_shared
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES fusefs/fusefs_ioctl.h fusefs/client/fusefs.h
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
# By its own place, as `cmake --install --prefix` may say another one than was configured.
set(pc_dir ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH pc_to_include ${pc_dir} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(fusefs/client/libfusefs.pc.in ${PROJECT_BINARY_DIR}/packaging/libfusefs.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/packaging/libfusefs.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# The names that mkfs(8), fsck(8) and mount(8) look for.
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/links)
foreach(name mkfs.fusefs fsck.fusefs mount.fusefs)
  file(CREATE_LINK ../bin/fusefs ${PROJECT_BINARY_DIR}/links/${name} SYMBOLIC)
  install(FILES ${PROJECT_BINARY_DIR}/links/${name} DESTINATION ${CMAKE_INSTALL_SBINDIR})
endforeach()

install(FILES packaging/man/fusefs_pin.3 DESTINATION ${CMAKE_INSTALL_MANDIR}/man3)
foreach(name fusefs_map fusefs_size fusefs_io fusefs_flush fusefs_unmap fusefs_error)
  file(WRITE ${PROJECT_BINARY_DIR}/links/${name}.3 ".so man3/fusefs_pin.3\n")
  install(FILES ${PROJECT_BINARY_DIR}/links/${name}.3 DESTINATION ${CMAKE_INSTALL_MANDIR}/man3)
endforeach()
install(FILES packaging/man/fusefs.5 DESTINATION ${CMAKE_INSTALL_MANDIR}/man5)
install(FILES packaging/man/fusefs.8 packaging/man/mkfs.fusefs.8 packaging/man/fsck.fusefs.8
              packaging/man/mount.fusefs.8
        DESTINATION ${CMAKE_INSTALL_MANDIR}/man8)
foreach(name fusefs mkfs.fusefs fsck.fusefs)
  install(FILES packaging/completion.bash
          DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME ${name})
endforeach()

foreach(name fusefs@.service 61-fusefs.rules)
  configure_file(packaging/${name} ${PROJECT_BINARY_DIR}/packaging/${name} @ONLY)
endforeach()
install(FILES ${PROJECT_BINARY_DIR}/packaging/fusefs@.service
        DESTINATION lib/systemd/system)
install(FILES ${PROJECT_BINARY_DIR}/packaging/61-fusefs.rules DESTINATION lib/udev/rules.d)
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGE_NAME fusefs)
set(CPACK_PACKAGE_CONTACT "The fusefs developers <fusefs@example.com>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "filesystem in user space with clones, a journal and JSON")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_DEPENDS fuse3)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
include(CPack)
